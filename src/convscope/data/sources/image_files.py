"""Folders, archives, CSV files and single images: recognized and opened here, and only here."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from convscope.data.decode.cache import DecodeCache
from convscope.data.decode.files import MAX_FILE_BYTES, Entry, Listing, Stamp, unreadable
from convscope.data.decode.formats import looks_packed
from convscope.data.names import folders_above, missing_path, printable
from convscope.data.sources.archive import is_zip, open_archive
from convscope.data.sources.csv_file import is_csv, read_rows
from convscope.data.sources.folder import list_folder
from convscope.data.sources.labels import Label, LabelRule, folder_label_rule
from convscope.data.sources.layout import written_folders
from convscope.errors import DataError, UsageError
from convscope.results.prediction import Skipped
from convscope.storage.files import read_limited


@dataclass(frozen=True)
class ImageFiles:
    """The files of a folder, archive or CSV, each of which may be an image.

    Args:
        entries: an iterator for a tar, which is read while it is consumed; otherwise a list.
        listing: everything else in the source; of a tar it is complete when all entries are consumed.
        rule: the labels that a CSV gives; None where class folders give them.
        stamp: of an archive; () for a folder or CSV.
    """

    name: str
    entries: list[Entry] | Iterator[Entry]
    listing: Listing
    rule: LabelRule | None = None
    stamp: Stamp = ()

    @property
    def total(self) -> int | None:
        """Return the number of entries, None if it is not known before they are read."""
        return len(self.entries) if isinstance(self.entries, list) else None

    def label_rule(self, images: Iterable[str], others: Iterable[str]) -> LabelRule:
        """Return how files get their labels, given the names of images and of others; all entries have been read."""
        if self.rule is not None:
            return self.rule
        written = written_folders(others) | self.listing.written
        folders_of_images = {name.rpartition("/")[0] for name in images}
        with_images = {folder for folder in folders_of_images if written.isdisjoint(folders_above(folder))}
        populated: set[str] = set().union(*map(folders_above, with_images))
        hidden = {f for f in self.listing.folders if not written.isdisjoint(folders_above(f))}
        hidden |= set().union(*map(folders_above, written)) - populated
        rule = folder_label_rule((self.listing.folders - hidden) | populated, with_images)

        def label_of(file: str) -> Label | None:
            above = folders_above(file.rpartition("/")[0])
            return rule.label_of(file) if written.isdisjoint(above) else None

        return replace(rule, label_of=label_of) if written else rule


@contextmanager
def open_image_files(path: Path, listing: Listing, cache: DecodeCache | None = None) -> Iterator[ImageFiles]:
    """Yield the files of a folder, archive or CSV, which can be read until the block ends; raises DataError."""
    if path.is_dir():
        yield ImageFiles(printable(path.resolve().name or str(path)), list_folder(path, listing), listing)
    elif is_csv(path):
        entries, rule = read_rows(path, listing)
        yield ImageFiles(printable(path.name), entries, listing, rule)
    else:
        with open_archive(path, listing, cache) as (members, stamp):
            yield ImageFiles(printable(path.name), members, listing, stamp=stamp)


@contextmanager
def open_paths(paths: Sequence[Path], listing: Listing) -> Iterator[Iterator[Entry]]:
    """Yield the images behind paths to files, folders and archives, in order; they can be read until the block ends.

    A damaged archive becomes one skipped file. The name of an entry begins with the path as it was given.

    Raises:
        UsageError: a path does not exist; nothing has been read then.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(missing_path(str(path), "file or folder", "check its spelling"))
    with ExitStack() as stack:
        yield _entries_of(paths, listing, stack)


def read_members(source: Path, ids: Collection[str]) -> dict[str, bytes]:
    """Return the bytes of some images of a folder, zip or CSV by the ids they have in its ImageSet.

    Missing ids are left out, and so is every image of a tar, which could only be read from its beginning.
    """
    if source.is_dir():
        return {id_: read_limited(source / id_, MAX_FILE_BYTES) for id_ in ids if (source / id_).is_file()}
    if not (is_csv(source) or is_zip(source)):
        return {}
    with open_image_files(source, Listing()) as files:
        return {printable(entry.name): entry.read() for entry in files.entries if printable(entry.name) in ids}


def _entries_of(paths: Sequence[Path], listing: Listing, stack: ExitStack) -> Iterator[Entry]:
    for path in paths:
        shown = printable(str(path))
        try:
            if not (path.is_dir() or path.is_file()):
                listing.skipped.append(Skipped(shown, "not a regular file", "give a file, a folder or an archive"))
            elif path.is_dir() or _is_archive(path):
                for entry in stack.enter_context(open_image_files(path, listing)).entries:
                    yield replace(entry, name=f"{path}/{entry.name}")
            else:
                yield Entry(str(path), path.stat().st_size, partial(read_limited, path, MAX_FILE_BYTES))
        except DataError as error:
            listing.skipped.append(Skipped(shown, str(error), "check its rights, get it again, or pack it again"))
        except OSError as error:
            listing.skipped.append(unreadable(str(path), error))


def _is_archive(path: Path) -> bool:
    """Return whether a file begins as an archive does."""
    with path.open("rb") as file:
        return looks_packed(file.read(512))
