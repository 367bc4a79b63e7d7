"""Data sets by name: what they hold, and what happens to files that are not what they should be."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convscope.config import DataConfig
from convscope.data.load import load_images
from convscope.data.sources import cifar, idx
from convscope.data.sources.embedded import MNIST5K_TABLE, find_table, load_digits, load_mnist5k, read_digits
from convscope.errors import DataError
from convscope.progress import Progress, ignore_progress
from convscope.storage import cache

REFERENCE_MNIST = Path(__file__).parents[1].parent / "shared" / "data" / "mnist"
needs_mnist = pytest.mark.skipif(not REFERENCE_MNIST.is_dir(), reason="reference data: no shared/data/mnist")


# ---------------------------------------------------------------- digits, mnist5k


def test_digits_are_scikit_learns_scaled_to_255() -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    images = load_digits(DataConfig(source="digits"), ignore_progress)
    ink, labels = sklearn_datasets.load_digits(return_X_y=True)
    scaled = [int(Fraction(255 * int(value), 16) + Fraction(1, 2)) for value in ink.ravel()]
    assert images.images.shape == (1797, 8, 8, 1)
    assert images.images.ravel().tolist() == scaled
    assert images.labels.tolist() == labels.tolist()
    assert set(images.source_splits) == {""}
    assert set(np.unique(images.images)) >= {0, 16, 128, 255}


def test_mnist5k_is_the_csv_read_by_pythons_own_reader() -> None:
    images = load_mnist5k(DataConfig(source="mnist5k"), ignore_progress)
    with gzip.open(find_table(*MNIST5K_TABLE), "rt") as file:
        rows = [[int(value) for value in row] for row in csv.reader(file)]
    assert images.images.shape == (5000, 28, 28, 1)
    assert np.array_equal(images.images.reshape(5000, 784), [row[:-1] for row in rows])
    assert images.labels.tolist() == [row[-1] for row in rows]


def test_mnist5k_holds_out_the_last_hundred_of_each_class() -> None:
    images = load_mnist5k(DataConfig(source="mnist5k"), ignore_progress)
    splits = np.array(images.source_splits)
    for digit in range(10):
        assert splits[images.labels == digit].tolist() == ["train"] * 400 + ["test"] * 100


def test_only_the_images_that_are_asked_for_are_resized() -> None:
    large = DataConfig(source="mnist5k", image_size=224, per_class=2)
    few = load_images(replace(large, image_size=None))
    load_images(replace(large, per_class=1))  # what is imported on the way does not count
    tracemalloc.start()
    try:
        images = load_images(large)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert images.ids == few.ids
    assert images.images.shape == (40, 224, 224, 1)
    assert peak < 5_000 * 224 * 224 / 4


def test_mnist5k_cut_short_is_refused(tmp_path: Path) -> None:
    whole = find_table(*MNIST5K_TABLE).read_bytes()
    cut = tmp_path / "mnist_5k.csv.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz cannot be read"):
        read_digits(cut, n=5000, side=28)
    cut.write_bytes(gzip.compress(b"1,2,3\n4,5,6\n"))
    with pytest.raises(DataError, match="expected 5000 rows of 785 values"):
        read_digits(cut, n=5000, side=28)


# ---------------------------------------------------------------- IDX


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    """Write the format from its description, apart from the code under test."""
    return bytes([0, 0, 8, values.ndim]) + b"".join(struct.pack(">I", n) for n in values.shape) + values.tobytes()


def random_bytes(*shape: int, high: int = 256) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, high, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 4), (5, 6, 2), (2, 1, 3, 4)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_read_idx_returns_what_was_written(tmp_path: Path, shape: tuple[int, ...], pack: Callable[..., bytes]) -> None:
    values, path = random_bytes(*shape), tmp_path / "x"
    path.write_bytes(pack(idx_bytes(values)))
    assert np.array_equal(idx.read_idx(path), values)
    assert idx.read_idx(path).shape == shape
    assert np.array_equal(idx.read_idx(path, ndim=len(shape)), values)


WHOLE = idx_bytes(random_bytes(10, 28, 28))
DAMAGES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "00000803 .* found nothing"),
    "two bytes": (WHOLE[:2], "00000803 .* found 0000"),
    "text": (b"<html>not found</html>", "00000803 .* found 3c68746d"),
    "signed bytes": (b"\0\0\x09\x03" + WHOLE[4:], "00000803 .* found 00000903"),
    "other dimensions": (b"\0\0\x08\x01" + WHOLE[4:], "00000803 .* found 00000801"),
    "header cut": (WHOLE[:11], "header of 16 bytes, found 11"),
    "pixels cut": (WHOLE[:-1], "10 x 28 x 28 = 7840 bytes, found 7839"),
    "no pixels": (WHOLE[:16], "7840 bytes, found 0"),
    "trailing byte": (WHOLE + b"!", "7840 bytes, found 7841 or more"),
    "claims 1 TB": (WHOLE[:4] + b"\0\1\0\0" * 2 + b"\0\0\1\0" + WHOLE[16:], "65536 x 65536 x 256 = .* at most"),
    "claims 1 GB": (WHOLE[:4] + struct.pack(">III", 1 << 15, 1 << 10, 32) + WHOLE[16:], "1073741824 .* found 7840"),
    "gzip cut in the pixels": (gzip.compress(WHOLE)[:4000], r"7840 bytes, found \d+ \(the gzip stream is cut short\)"),
    "gzip cut in its trailer": (gzip.compress(WHOLE)[:-3], r"found 7840 \(the gzip stream is cut short\)"),
    "gzip with a wrong checksum": (gzip.compress(WHOLE)[:-8] + bytes(8), r"found 7840 \(the gzip stream is damaged"),
    "gzip and more": (gzip.compress(WHOLE) + b"more", "the gzip stream is damaged"),
    "gzip cut in its header": (gzip.compress(WHOLE)[:7], r"found nothing \(the gzip stream is cut short\)"),
    "gzip of fewer pixels": (gzip.compress(WHOLE[:-100]), "7840 bytes, found 7740"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_idx_is_refused_with_file_and_sizes(tmp_path: Path, name: str) -> None:
    content, message = DAMAGES[name]
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            idx.read_idx(path, ndim=3)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000  # whatever the header claims
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_cut_of_an_idx_file_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "x", idx_bytes(random_bytes(3, 5, 4))
    for content in (whole, gzip.compress(whole)):
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(DataError):
                idx.read_idx(path)


def test_missing_idx_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere cannot be read: No such file"):
        idx.read_idx(tmp_path / "nowhere")


SPELLINGS = {
    "dashes": ("{}-{}-ubyte", bytes),
    "dashes, gzip": ("{}-{}-ubyte.gz", gzip.compress),
    "dot": ("{}.{}-ubyte", bytes),
    "dot, gzip": ("{}.{}-ubyte.gz", gzip.compress),
    "torchvision": ("MNIST/raw/{}-{}-ubyte", bytes),
    "unpacked without renaming": ("{}-{}-ubyte.gz", bytes),
}


def write_idx_set(folder: Path, spelling: str = "dashes", n_train: int = 6, n_test: int = 4) -> NDArray[np.uint8]:
    """Write four IDX files and return all images; labels count 0, 1, 2, ... modulo ten."""
    pattern, pack = SPELLINGS[spelling]
    images = random_bytes(n_train + n_test, 5, 3)
    for kind, split in (("train", images[:n_train]), ("t10k", images[n_train:])):
        for name, values in (("images", split), ("labels", np.arange(len(split), dtype=np.uint8) % 10)):
            path = folder / pattern.format(f"{kind}-{name}", f"idx{values.ndim}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pack(idx_bytes(values)))
    return images


def load_mnist_from(folder: Path) -> idx.ImageSet:
    return idx.load_mnist(DataConfig(source="mnist", data_dir=str(folder)), ignore_progress)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_mnist_is_found_under_every_spelling(tmp_path: Path, spelling: str) -> None:
    images = write_idx_set(tmp_path, spelling)
    found = load_mnist_from(tmp_path)
    assert np.array_equal(found.images[..., 0], images)
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert found.source_splits == ("train",) * 6 + ("test",) * 4
    assert len(set(found.ids)) == 10


@pytest.mark.parametrize("stem", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"])
def test_a_missing_file_is_named_with_its_folder_and_not_fetched(tmp_path: Path, stem: str) -> None:
    write_idx_set(tmp_path)
    (tmp_path / f"{stem}-ubyte").unlink()
    with pytest.raises(DataError, match=f"no {stem}-ubyte or .* in {tmp_path}.*--data-dir"):
        load_mnist_from(tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_counts_and_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(5, np.uint8)))
    with pytest.raises(DataError, match=r"train-images.* holds 6 images, but .*train-labels.* 5 labels"):
        load_mnist_from(tmp_path)
    labels.write_bytes(idx_bytes(np.array([0, 9, 10, 1, 255, 0], np.uint8)))
    with pytest.raises(DataError, match=r"train-labels.*label 10 at position 2, expected 0 to 9 \(2 such labels\)"):
        load_mnist_from(tmp_path)


def test_images_without_pixels_or_of_two_sizes_are_refused(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    test_images = tmp_path / "t10k-images-idx3-ubyte"
    test_images.write_bytes(idx_bytes(random_bytes(4, 7, 7)))
    with pytest.raises(DataError, match=r"\(7, 7\) pixels, but .* has \(5, 3\)"):
        load_mnist_from(tmp_path)
    test_images.write_bytes(idx_bytes(random_bytes(4, 0, 7)))
    with pytest.raises(DataError, match="holds no pixels: 4 x 0 x 7"):
        load_mnist_from(tmp_path)


def test_without_data_dir_the_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    images = write_idx_set(tmp_path / "convscope" / "fashion-mnist", "dashes, gzip")
    found = idx.load_fashion_mnist(DataConfig(source="fashion-mnist"), ignore_progress)
    assert np.array_equal(found.images[..., 0], images)
    assert found.class_names[0] == "T-shirt/top"
    assert found.class_names[9] == "Ankle boot"


def unlabelled(name: str) -> str:
    raise RuntimeError("could not determine the home directory")


@pytest.mark.parametrize("user_cache_dir", ["~/.cache/{}".format, unlabelled], ids=["left as ~", "RuntimeError"])
def test_without_a_home_there_is_no_cache_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, user_cache_dir: Callable[[str], str]
) -> None:
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", user_cache_dir)  # as its versions differ
    with pytest.raises(DataError, match=r"HOME is not set.*--data-dir"):
        idx.load_mnist(DataConfig(source="mnist"), ignore_progress)


@needs_mnist
def test_mnist_is_the_published_one() -> None:
    found = load_mnist_from(REFERENCE_MNIST)
    assert found.images.shape == (70_000, 28, 28, 1)
    assert found.source_splits == ("train",) * 60_000 + ("test",) * 10_000
    # md5 of the unpacked train-images-idx3-ubyte as torchvision publishes it
    content = struct.pack(">IIII", 0x803, 60_000, 28, 28) + found.images[:60_000].tobytes()
    assert hashlib.md5(content).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    # counts of the ten digits in the test split, as its authors and every textbook list them
    assert np.bincount(found.labels[60_000:]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@needs_mnist
def test_mnist5k_images_are_mnist_training_images_with_the_same_label() -> None:
    whole = load_mnist_from(REFERENCE_MNIST)
    small = load_mnist5k(DataConfig(source="mnist5k"), ignore_progress)
    label_of = {image.tobytes(): int(label) for image, label in zip(whole.images, whole.labels, strict=True)}
    assert [label_of.get(image.tobytes()) for image in small.images] == small.labels.tolist()


# ---------------------------------------------------------------- CIFAR-10

NAMES = ("data_batch_1", "data_batch_2", "test_batch")
PLANES = random_bytes(6, 3072)
LABELS = [9, 0, 3, 1, 2, 8]


def python2_pickle(planes: NDArray[np.uint8], labels: list[int]) -> bytes:
    """Write the opcodes of protocol 2 as Python 2 did for the published batches: str as BINSTRING, no encoding."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    n, width = planes.shape
    raw = planes.tobytes()
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\0K\1\x87R(K\3"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
        b"(K\1K" + bytes([n]) + b"M" + struct.pack("<H", width) + b"\x86" + dtype + b"\x89"
        b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\2}(" + text(b"data") + array + text(b"labels") + numbers + text(b"batch_label") + text(b"x") + b"u."


def python3_pickle(planes: object, labels: object, protocol: int = 2) -> bytes:
    return pickle.dumps({b"data": planes, b"labels": labels, b"filenames": [b"a.png"]}, protocol=protocol)


def binary_batch(planes: NDArray[np.uint8], labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + plane.tobytes() for plane, label in zip(planes, labels, strict=True))


def assert_batch(batch: cifar.Batch, planes: NDArray[np.uint8], labels: list[int]) -> None:
    """Compare pixel by pixel with where the description of the data set puts each byte."""
    images, found = batch
    assert found.tolist() == labels
    assert found.dtype == np.int64
    assert images.shape == (len(planes), 32, 32, 3)
    for image, row, column, channel in [(0, 0, 0, 0), (0, 0, 31, 1), (1, 31, 0, 2), (1, 17, 5, 0)]:
        assert images[image, row, column, channel] == planes[image, 1024 * channel + 32 * row + column]


@pytest.mark.parametrize("write", [python2_pickle, python3_pickle], ids=["Python 2", "Python 3, protocol 2"])
def test_python_batch(write: Callable[..., bytes]) -> None:
    assert_batch(cifar.parse_python_batch(write(PLANES, LABELS), "x"), PLANES, LABELS)


def test_python2_fixture_means_the_same_to_the_standard_unpickler() -> None:
    content = python2_pickle(PLANES, LABELS).replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    batch = pickle.loads(content, encoding="bytes")
    assert np.array_equal(batch[b"data"], PLANES)
    assert batch[b"labels"] == LABELS


def test_binary_batch() -> None:
    assert_batch(cifar.parse_binary_batch(binary_batch(PLANES, LABELS), "x"), PLANES, LABELS)


class _Payload:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_with_a_payload_is_refused_and_does_nothing(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    payload = _Payload(os.system, f"touch {trace}")
    with pytest.raises(DataError, match=r"asks for (posix|nt)\.system"):
        cifar.parse_python_batch(python3_pickle(payload, LABELS, protocol), "x")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (python3_pickle(_Payload(eval, "1"), []), "asks for .*eval"),
        (python3_pickle(_Payload(np.load, "x"), []), "asks for numpy"),
        (python3_pickle(_Payload(getattr, "", "join"), []), "asks for .*getattr"),
        (b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.", "not a batch"),  # an array of 2 GB
        (b"ccodecs\nopen\n.", "asks for codecs.open"),
        (b"", "not a batch"),
        (b"<html>", "not a batch"),
        (python3_pickle(PLANES, LABELS)[:-100], "not a batch"),
        (pickle.dumps([1, 2], protocol=2), "expected b'data'"),
        (python3_pickle(PLANES[:, :-1], LABELS), "expected b'data' as uint8"),
        (python3_pickle(PLANES.astype(np.int64), LABELS), "expected b'data' as uint8"),
        (python3_pickle(PLANES, LABELS[:-1]), "list of 6 whole numbers"),
        (python3_pickle(PLANES, ["cat"] * 6), "list of 6 whole numbers"),
        (python3_pickle(PLANES, [0, 1, 10, 3, 4, 5]), "label 10 at position 2"),
        (python3_pickle(PLANES, [0, 1, 2, 3, -(10**30), 5]), "label -1000.* at position 4"),
    ],
)
def test_a_broken_python_batch_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"here: data_batch_1.*{message}") as caught:
        cifar.parse_python_batch(content, "here: data_batch_1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "records of 3073 bytes, found 0"),
        (binary_batch(PLANES, LABELS)[:-1], "records of 3073 bytes, found 18437"),
        (binary_batch(PLANES, [0, 10, 2, 3, 4, 5]), "label 10 at position 1"),
    ],
)
def test_a_broken_binary_batch_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"x: .*{message}"):
        cifar.parse_binary_batch(content, "x")


def tiny_batches(write: Callable[..., bytes], suffix: str = "") -> dict[str, bytes]:
    return {
        f"{name}{suffix}": write(PLANES[2 * i : 2 * i + 2], LABELS[2 * i : 2 * i + 2]) for i, name in enumerate(NAMES)
    }


def tar_gz(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


TINY_PYTHON = tiny_batches(python2_pickle)
TINY_BINARY = tiny_batches(binary_batch, ".bin")
# the published archive has its batches in no order either
PYTHON_TAR = tar_gz({f"cifar-10-batches-py/{name}": content for name, content in reversed(TINY_PYTHON.items())})
BINARY_TAR = tar_gz({f"cifar-10-batches-bin/{name}": content for name, content in TINY_BINARY.items()})
PYTHON = replace(
    cifar.PYTHON,
    archive_md5=md5(PYTHON_TAR),
    batches={name: md5(content) for name, content in TINY_PYTHON.items()},
    batch_size=2,
)
BINARY = replace(cifar.BINARY, archive_md5=md5(BINARY_TAR), batches=dict.fromkeys(TINY_BINARY), batch_size=2)


@pytest.fixture
def tiny_cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "VERSIONS", (PYTHON, BINARY))


def load_cifar_from(folder: Path) -> cifar.ImageSet:
    return cifar.load_cifar10(DataConfig(source="cifar10", data_dir=str(folder)), ignore_progress)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


CIFAR_FORMS: dict[str, Callable[[Path], object]] = {
    "python folder": lambda place: write_files(place / "cifar-10-batches-py", TINY_PYTHON),
    "binary folder": lambda place: write_files(place / "cifar-10-batches-bin", TINY_BINARY),
    "the batches themselves": lambda place: write_files(place, TINY_PYTHON),
    "python archive": lambda place: write_files(place, {"cifar-10-python.tar.gz": PYTHON_TAR}),
    "binary archive": lambda place: write_files(place, {"cifar-10-binary.tar.gz": BINARY_TAR}),
}


@pytest.mark.usefixtures("tiny_cifar")
@pytest.mark.parametrize("form", CIFAR_FORMS)
def test_cifar10_is_the_same_in_every_form(tmp_path: Path, form: str) -> None:
    CIFAR_FORMS[form](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = load_cifar_from(tmp_path)
    assert_batch((found.images, found.labels), PLANES, LABELS)
    assert np.array_equal(found.images, PLANES.reshape(6, 3, 32, 32).transpose(0, 2, 3, 1))
    assert found.images.flags.c_contiguous
    assert found.source_splits == ("train",) * 4 + ("test",) * 2
    assert found.class_names[LABELS[0]] == "truck"
    assert sorted(tmp_path.rglob("*")) == before


def test_cifar10_reports_its_progress(tmp_path: Path) -> None:
    write_files(tmp_path, TINY_PYTHON)
    seen: list[Progress] = []
    cifar.load_version(PYTHON, tmp_path, seen.append)
    assert [(progress.done, progress.total) for progress in seen] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.usefixtures("tiny_cifar")
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_or_changed_batch_is_refused_by_name(tmp_path: Path, name: str) -> None:
    changed = TINY_PYTHON[name].replace(b"batch_label", b"batch_lamel")
    write_files(tmp_path, TINY_PYTHON | {name: changed})
    with pytest.raises(DataError, match=f"{name} has the md5 {md5(changed)}, expected {md5(TINY_PYTHON[name])}"):
        load_cifar_from(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{tmp_path}: {name} missing"):
        load_cifar_from(tmp_path)


@pytest.mark.usefixtures("tiny_cifar")
def test_a_changed_archive_is_refused_with_both_hashes(tmp_path: Path) -> None:
    for name, whole in (("cifar-10-python.tar.gz", PYTHON_TAR), ("cifar-10-binary.tar.gz", BINARY_TAR)):
        cut = whole[: len(whole) // 2]
        write_files(tmp_path, {name: cut})
        with pytest.raises(DataError, match=f"{name} has the md5 {md5(cut)}, expected {md5(whole)}"):
            load_cifar_from(tmp_path)
        (tmp_path / name).unlink()


def test_archives_are_read_safely_even_with_the_right_hash(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    secret = write_files(tmp_path, {"secret": TINY_PYTHON["data_batch_1"]}) / "secret"
    batches = {f"cifar-10-batches-py/{name}": content for name, content in TINY_PYTHON.items()}
    hostile: dict[str, tuple[bytes, str]] = {
        "link": (tar_gz({}, {"cifar-10-batches-py/data_batch_1": str(secret)}), "is not a file"),
        "no tar": (gzip.compress(b"x" * 5000), "cannot be read"),
        "cut": (tar_gz(batches)[:-3000], "cannot be read|missing"),
        "incomplete": (tar_gz(dict(list(batches.items())[:2])), "test_batch missing"),
    }
    for content, message in hostile.values():
        archive.write_bytes(content)
        with pytest.raises(DataError, match=f"x.tar.gz.*({message})"):
            cifar.load_version(replace(PYTHON, archive_md5=md5(content)), archive, ignore_progress)


def test_members_outside_are_passed_over(tmp_path: Path) -> None:
    batches = {f"cifar-10-batches-py/{name}": content for name, content in TINY_PYTHON.items()}
    content = tar_gz(
        {"../outside": b"x", "/tmp/outside": b"x", "cifar-10-batches-py/../../data_batch_1": b"x"} | batches
    )
    write_files(tmp_path / "a", {"x.tar.gz": content})
    found = cifar.load_version(replace(PYTHON, archive_md5=md5(content)), tmp_path / "a" / "x.tar.gz", ignore_progress)
    assert len(found) == 6
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["a", "x.tar.gz"]


def test_a_batch_of_another_length_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, TINY_BINARY)
    with pytest.raises(DataError, match=r"data_batch_1.bin holds 2 images, expected 10000"):
        cifar.load_version(replace(BINARY, batch_size=10_000), tmp_path, ignore_progress)
    monkeypatch.setattr(cifar, "MAX_BATCH_BYTES", 100)
    with pytest.raises(DataError, match=r"data_batch_1.bin has more than 100 bytes"):
        cifar.load_version(BINARY, tmp_path, ignore_progress)


def test_cifar10_names_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"cifar-10-batches-py, cifar-10-python.tar.gz, .* in {tmp_path}"):
        load_cifar_from(tmp_path)
