"""`mnist` and `fashion-mnist`: images and labels in IDX files, plain or gzipped.

An IDX file is two zero bytes, a type (0x08: unsigned bytes), the number of dimensions, each dimension's size as four
bytes (most significant first), then the values, last dimension fastest.

Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database; H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747.
"""

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet, numbered_images
from convscope.data.sources.published import WITHOUT_A_DOWNLOAD, check_labels, find_file, published_folder
from convscope.errors import DataError
from convscope.progress import OnProgress
from convscope.storage.download import fetch

MAX_BYTES = 1 << 30
"""Largest content of one file: MNIST's is 47 MB, EMNIST's 638 MB."""
CHUNK_BYTES = 1 << 20
UNSIGNED_BYTES = 0x08


@dataclass(frozen=True)
class IdxSource:
    """A data set of four IDX files.

    Args:
        subfolder: where torchvision puts the files below its root.
        installed: folders where system packages put them.
        mirrors: https addresses that end in a slash.
        md5: of the published .gz files, by name without "-ubyte.gz"; training images and labels, then test.
    """

    name: str
    class_names: tuple[str, ...]
    subfolder: str
    installed: tuple[Path, ...]
    mirrors: tuple[str, ...]
    md5: Mapping[str, str]


MNIST = IdxSource(
    name="mnist",
    class_names=tuple("0123456789"),
    subfolder="MNIST/raw",
    installed=(),
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    md5={
        "train-images-idx3": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)

FASHION_MNIST = IdxSource(
    name="fashion-mnist",
    class_names=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    subfolder="FashionMNIST/raw",
    installed=(Path("/usr/share/datasets/fashion-mnist"),),
    mirrors=("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
    md5={
        "train-images-idx3": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)  # fmt: skip


def load_idx_source(source: IdxSource, config: DataConfig, on_progress: OnProgress) -> ImageSet:
    """Return the "train", then the "test" images of a data set in IDX files, uint8 [N, H, W, 1], ink 255 on ground 0.

    Raises:
        DataError: files are missing in `config.data_dir`, or broken.
        DownloadError: files are neither on this machine nor could be downloaded.
    """
    paths, num_classes = _find_files(source, config.data_dir, on_progress), len(source.class_names)
    train_images, train_labels = _read_pair(paths[0], paths[1], num_classes=num_classes)
    test_images, test_labels = _read_pair(paths[2], paths[3], num_classes=num_classes)
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{paths[2]}: images of {test_images.shape[1:]} pixels, but {paths[0]} has {train_images.shape[1:]}; "
            "these files do not belong to one data set"
        )
    images, labels = np.concatenate([train_images, test_images]), np.concatenate([train_labels, test_labels])
    splits = ("train",) * len(train_labels) + ("test",) * len(test_labels)
    return numbered_images(source.name, images[..., None], labels, source.class_names, splits)


load_mnist = partial(load_idx_source, MNIST)
load_fashion_mnist = partial(load_idx_source, FASHION_MNIST)


def _read_pair(
    images_path: Path, labels_path: Path, *, num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images, uint8 [N, H, W], and their class numbers, int64 [N]."""
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images, but {labels_path} {len(labels)} labels; "
            "these files do not belong together, or one is damaged"
        )
    if images.size == 0:
        raise DataError(f"{images_path} holds no pixels: {' x '.join(map(str, images.shape))}")
    check_labels(labels, num_classes, str(labels_path))
    return images, labels.astype(np.int64)


def read_idx(path: Path, *, ndim: int | None = None) -> NDArray[np.uint8]:
    """Return the array of `ndim` (None: 1 to 8) dimensions in an IDX file of unsigned bytes.

    Gzip is recognized by content, not by name. Memory use is bounded by the content, whatever the header announces.

    Raises:
        DataError: the file cannot be read, is not such an IDX file, or holds fewer or more bytes than announced.
    """
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            return _read_stream(gzip.GzipFile(fileobj=raw) if gzipped else raw, path, ndim)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_stream(file: BufferedReader | gzip.GzipFile, path: Path, ndim: int | None) -> NDArray[np.uint8]:
    magic, damage = _read_up_to(file, 4)
    expected_magic = "0000080N" if ndim is None else f"{UNSIGNED_BYTES << 8 | ndim:08x}"
    known_ndim = range(1, 9) if ndim is None else (ndim,)
    if len(magic) < 4 or magic[:3] != bytes([0, 0, UNSIGNED_BYTES]) or magic[3] not in known_ndim:
        raise DataError(
            f"{path}: expected an IDX file of unsigned bytes that begins with {expected_magic} (N dimensions), "
            f"found {magic.hex() or 'nothing'}{damage}"
        )
    sizes, damage = _read_up_to(file, 4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: expected a header of {4 + 4 * magic[3]} bytes, found {4 + len(sizes)}{damage}")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    expected, announced = prod(shape), " x ".join(map(str, shape))
    if expected > MAX_BYTES:
        raise DataError(f"{path}: its header announces {announced} = {expected} bytes, expected at most {MAX_BYTES}")
    content, damage = _read_up_to(file, expected + 1)  # one more byte shows whether there are too many
    if len(content) != expected or damage:
        found = f"{len(content)} or more" if len(content) > expected else str(len(content))
        raise DataError(
            f"{path}: its header announces {announced} = {expected} bytes, found {found}{damage}; "
            "the file is damaged, download it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_up_to(file: BufferedReader | gzip.GzipFile, limit: int) -> tuple[bytearray, str]:
    """Return the next bytes, at most `limit`, and what is wrong with the gzip stream after them, or ""."""
    content = bytearray()
    try:
        # read1 returns what was unpacked before the damage, and never allocates more than a chunk
        while chunk := file.read1(min(CHUNK_BYTES, limit - len(content))):
            content += chunk
    except EOFError:
        return content, " (the gzip stream is cut short)"
    except (zlib.error, gzip.BadGzipFile) as error:
        return content, f" (the gzip stream is damaged: {error})"
    return content, ""


def _find_files(source: IdxSource, data_dir: str | None, on_progress: OnProgress) -> list[Path]:
    """Return the paths of the four files, in the order of `source.md5`; with a `data_dir`, nothing is downloaded."""
    folder = published_folder(source.name, data_dir)
    folders = [folder, *source.installed] if data_dir is None else [folder, folder / source.subfolder]
    paths = []
    for stem, md5 in source.md5.items():
        path, name = find_file(folders, _spellings(stem)), f"{stem}-ubyte.gz"
        if path is None and data_dir is not None:
            missing = "" if folder.is_dir() else ", which is not a folder,"
            raise DataError(
                f"{source.name}: found no {stem}-ubyte or {name} in {folder}{missing} or its "
                f"{source.subfolder}; put it there, or leave out --data-dir to use the cache or download it"
            )
        if path is None:
            urls = [mirror + name for mirror in source.mirrors]
            path = fetch(
                urls, folder / name, known_hash=f"md5:{md5}", otherwise=WITHOUT_A_DOWNLOAD, on_progress=on_progress
            )
        paths.append(path)
    return paths


def _spellings(stem: str) -> list[str]:
    """Return the names in use for a file, unpacked ones first because they are read fastest."""
    kinds, _, idx = stem.rpartition("-")
    plain = [f"{stem}-ubyte", f"{kinds}.{idx}-ubyte"]
    return plain + [f"{name}.gz" for name in plain]
