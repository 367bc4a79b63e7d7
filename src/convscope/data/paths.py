"""Pictures by path, without labels: files, folders and archives in any mixture, and single members by their id."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from convscope.data.archive import open_archive
from convscope.data.csv_file import is_csv, read_rows
from convscope.data.folder import walk_folder
from convscope.data.formats import looks_packed
from convscope.data.intake import Entry, unreadable
from convscope.data.layout import Listing
from convscope.data.names import printable
from convscope.errors import DataError, UsageError
from convscope.pictures import Skipped


@contextmanager
def open_paths(paths: Sequence[Path], listing: Listing) -> Iterator[Iterator[Entry]]:
    """Yield the files behind some paths, in their order; they can be read until the block ends.

    A folder stands for all files below it, sorted, an archive for all its members. An archive that is damaged is
    listed as one skipped file, and the others go on. An entry's name begins with the path as it was given.

    Raises:
        UsageError: a path does not exist; nothing has been read then.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"no file or folder {printable(str(path))!r}; check its spelling")
    with ExitStack() as stack:
        yield _entries(paths, listing, stack)


def read_members(source: Path, ids: Collection[str]) -> dict[str, bytes]:
    """Return the bytes of some pictures of a folder, zip or CSV by the ids they have in its ImageSet.

    What is not there under such an id is left out, and so is every picture of a tar, which could only be read from its
    beginning.
    """
    if source.is_dir():
        return {id_: (source / id_).read_bytes() for id_ in ids if (source / id_).is_file()}
    if is_csv(source):
        return {
            printable(entry.name): entry.read()
            for entry in read_rows(source, Listing())[0]
            if printable(entry.name) in ids
        }
    if not zipfile.is_zipfile(source):
        return {}
    with open_archive(source, Listing()) as (entries, _):
        return {printable(entry.name): entry.read() for entry in entries if printable(entry.name) in ids}


def _entries(paths: Sequence[Path], listing: Listing, stack: ExitStack) -> Iterator[Entry]:
    for path in paths:
        try:
            if path.is_dir():
                for entry in sorted(walk_folder(path, listing), key=lambda entry: entry.name):
                    yield Entry(f"{path}/{entry.name}", entry.size, entry.read)
            elif not path.is_file():
                listing.skipped.append(
                    Skipped(printable(str(path)), "not a regular file", "give a file, a folder or an archive")
                )
            elif _is_archive(path):
                entries, _ = stack.enter_context(open_archive(path, listing))
                for entry in entries:
                    yield Entry(f"{path}/{entry.name}", entry.size, entry.read)
            else:
                yield Entry(str(path), path.stat().st_size, partial(Path.read_bytes, path))
        except DataError as error:
            listing.skipped.append(Skipped(printable(str(path)), str(error), "get it again, or pack it again"))
        except OSError as error:
            listing.skipped.append(unreadable(str(path), error))


def _is_archive(path: Path) -> bool:
    """Return whether a file's first bytes are those of an archive."""
    with path.open("rb") as file:
        return looks_packed(file.read(512))
