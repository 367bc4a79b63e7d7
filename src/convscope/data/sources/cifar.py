"""`cifar10`: 60,000 photos of ten classes, 32x32 RGB, in its Python or its binary version.

A batch of the Python version is a pickle, a program that may do anything: it is read only if its hash is the published
one, and by an unpickler that accepts nothing but arrays of numbers.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet, numbered_images
from convscope.data.sources.published import WITHOUT_A_DOWNLOAD, check_labels, find_file, published_folder
from convscope.errors import DataError
from convscope.progress import OnProgress, Progress
from convscope.storage.download import fetch

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE
RECORD_BYTES = 1 + PIXEL_BYTES
BATCH_SIZE = 10_000
MAX_BATCH_BYTES = 40_000_000
"""Larger than any batch: they have 31 MB."""
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"

_md5 = partial(hashlib.md5, usedforsecurity=False)

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pixels, uint8 [N, 32, 32, 3], and class numbers, int64 [N]."""


@dataclass(frozen=True)
class Version:
    """One of the two forms in which the data set is published: an archive that holds a folder of batches.

    Args:
        batches: md5 of each batch by file name, the test batch last; None where it is unknown.
        parse: takes a batch's content and name, returns its images.
    """

    folder: str
    archive: str
    archive_md5: str
    batches: Mapping[str, str | None]
    parse: Callable[[bytes, str], Batch]
    batch_size: int = BATCH_SIZE


def load_cifar10(config: DataConfig, on_progress: OnProgress) -> ImageSet:
    """Return the 50,000 "train" and 10,000 "test" photos, uint8 [60000, 32, 32, 3].

    Raises:
        DataError: files are missing in `config.data_dir`, or are not the published ones.
        DownloadError: files are neither on this machine nor could be downloaded.
    """
    folder = published_folder("cifar10", config.data_dir)
    for version in VERSIONS:
        batch = find_file([folder / version.folder, folder], tuple(version.batches))
        if batch is not None:
            return load_version(version, batch.parent, on_progress)
    for version in VERSIONS:
        archive = find_file([folder], [version.archive])
        if archive is not None:
            return load_version(version, archive, on_progress)
    if config.data_dir is not None:
        expected = ", ".join(name for version in VERSIONS for name in (version.folder, version.archive))
        raise DataError(
            f"cifar10: found none of {expected} in {folder}; put one there, "
            "or leave out --data-dir to use the cache or download it"
        )
    known_hash = f"md5:{PYTHON.archive_md5}"
    archive = folder / PYTHON.archive
    fetch([URL], archive, known_hash=known_hash, otherwise=WITHOUT_A_DOWNLOAD, on_progress=on_progress)
    return load_version(PYTHON, archive, on_progress)


def load_version(version: Version, path: Path, on_progress: OnProgress) -> ImageSet:
    """Return the images of all batches in `path`, a folder of batches or their archive.

    Raises:
        DataError: a batch is missing, differs from the published hash or size, or cannot be parsed.
    """
    names, size = list(version.batches), version.batch_size
    n = size * len(names)
    images, labels = np.empty((n, SIDE, SIDE, 3), np.uint8), np.empty(n, np.int64)
    missing = dict.fromkeys(names)
    for name, content in _read_folder(version, path) if path.is_dir() else _read_archive(version, path):
        label = f"{path}: {name}"
        _check_md5(label, _md5(content).hexdigest(), version.batches[name])
        batch_images, batch_labels = version.parse(content, label)
        if len(batch_labels) != size:
            raise DataError(f"{label} holds {len(batch_labels)} images, expected {size}")
        start = size * names.index(name)  # an archive has them in any order
        images[start : start + size], labels[start : start + size] = batch_images, batch_labels
        missing.pop(name, None)
        on_progress(Progress("reading cifar10", len(names) - len(missing), len(names), unit="batches"))
    if missing:
        raise DataError(
            f"{path}: {', '.join(missing)} missing, expected {', '.join(names)}; download the data set again"
        )
    return numbered_images("cifar10", images, labels, CLASS_NAMES, ("train",) * (n - size) + ("test",) * size)


def _read_folder(version: Version, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the batches that exist."""
    for name in version.batches:
        path = folder / name
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BATCH_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if len(content) > MAX_BATCH_BYTES:
            raise DataError(f"{path} has more than {MAX_BATCH_BYTES} bytes; this is not a batch of cifar10")
        yield name, content


def _read_archive(version: Version, archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the batches in an archive with the published hash; nothing is extracted to disk."""
    wanted = {f"{version.folder}/{name}": name for name in version.batches}
    try:
        with archive.open("rb") as file:
            _check_md5(str(archive), hashlib.file_digest(file, _md5).hexdigest(), version.archive_md5)
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                name = wanted.get(member.name)
                if name is None:
                    continue
                stream = members.extractfile(member) if member.isreg() else None
                content = b"" if stream is None else stream.read(MAX_BATCH_BYTES + 1)
                if not 0 < len(content) <= MAX_BATCH_BYTES:
                    raise DataError(f"{archive}: {member.name} is not a file of at most {MAX_BATCH_BYTES} bytes")
                yield name, content
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{archive} cannot be read: {error}; download it again") from error


def _check_md5(label: str, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise DataError(
            f"{label} has the md5 {found}, expected {expected}; it is not the published file, download it again"
        )


# ---------------------------------------------------------------- batches


def parse_binary_batch(content: bytes, label: str) -> Batch:
    """Return the images of a binary batch, which errors call `label`: records of a label byte and 3 x 1,024 pixels.

    Raises:
        DataError: the content is not a whole number of records, or a label is not in 0..9.
    """
    if not content or len(content) % RECORD_BYTES:
        raise DataError(f"{label}: expected records of {RECORD_BYTES} bytes, found {len(content)} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    return _checked(records[:, 1:], records[:, 0], label)


def parse_python_batch(content: bytes, label: str) -> Batch:
    """Return the images of a batch of the Python version, a pickled dict with b"data" and b"labels".

    Raises:
        DataError: the pickle is truncated, asks for anything but arrays, or holds something else.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a broken pickle may raise any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{label} is not a batch of cifar10: {reason}") from error
    pixels, labels = (batch.get(b"data"), batch.get(b"labels")) if isinstance(batch, dict) else (None, None)
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (PIXEL_BYTES,)):
        raise DataError(f"{label}: expected b'data' as uint8 [N, {PIXEL_BYTES}]; this is not a batch of cifar10")
    if not (isinstance(labels, list) and len(labels) == len(pixels) and all(type(item) is int for item in labels)):
        raise DataError(f"{label}: expected b'labels' as a list of {len(pixels)} whole numbers")
    return _checked(pixels, np.array(labels, dtype=object), label)  # whole numbers of any size


def _checked(pixels: NDArray[np.uint8], labels: NDArray[Any], label: str) -> Batch:
    """Return the batch with planes, uint8 [N, 3 * 1024], rearranged to pixels; raise DataError for a label above 9."""
    check_labels(labels, len(CLASS_NAMES), label)
    return pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels.astype(np.int64)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, numbers, strings and numpy arrays; refuses every other name in a pickle."""

    ALLOWED: Mapping[tuple[str, str], Any] = {
        **{
            # its arguments are placeholders: the array's state fills it afterwards
            (f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: np.empty(0, np.uint8)
            for core in ("core", "_core")
        },
        ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, _: text.encode("latin-1"),  # how Python 3 writes bytes in protocol 2
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:  # noqa: ANN401
        """Return the object for a name in a pickle."""
        if (module_name, global_name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which no batch needs")
        return self.ALLOWED[module_name, global_name]


PYTHON = Version(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    batches={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    parse=parse_python_batch,
)

BINARY = Version(
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
    archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
    batches={f"{name}.bin": None for name in PYTHON.batches},
    parse=parse_binary_batch,
)

VERSIONS = (PYTHON, BINARY)
