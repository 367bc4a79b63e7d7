"""The cache: capped, private, and never needed; what is damaged in it is made again."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convscope.api import predict as predict_module
from convscope.api.predict import predict, published_key
from convscope.data.batches import Preprocessing
from convscope.errors import DataError
from convscope.evaluation.predict import Forward
from convscope.inference.session import MODEL_FILE
from convscope.models.zoo.weights import EMBEDDED
from convscope.progress import ignore_progress
from convscope.storage import cache
from convscope.storage.cache import MAX_BYTES, cache_folder, cached_file, prune, save_cached
from convscope.storage.files import Stream, array_content
from convscope.training.features import extract_features
from tests.support import image

KINDS = tuple(MAX_BYTES)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "convscope"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def set_age(path: Path, seconds: int) -> None:
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_is_found_again_and_only_the_owner_may_read_it(root: Path, kind: str) -> None:
    assert cached_file(kind, "a") is None
    save_cached(kind, "a", Stream(6, lambda: (b"abc", memoryview(b"def"))))
    path = cached_file(kind, "a")
    assert path is not None
    assert path.read_bytes() == b"abcdef"
    assert names(root / kind) == {path.name}
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE((root / kind).stat().st_mode) == 0o700


def test_cache_folders_are_their_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new" / "cache"))
    assert save_cached("images", "a", b"1")
    folder = tmp_path / "new" / "cache" / "convscope" / "images"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, *list(folder.parents)[:3])} == {0o700}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_used_longest_ago_are_deleted_beyond_the_cap(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_BYTES, kind, 250)
    for age, key in ((30, "first"), (20, "second")):
        save_cached(kind, key, bytes(100))
        set_age(root / kind / f"{key}{cache.SUFFIXES[kind]}", age)
    assert cached_file(kind, "first") is not None  # which counts as use
    save_cached(kind, "third", bytes(100))
    assert [cached_file(kind, key) is not None for key in ("first", "second", "third")] == [True, False, True]


def test_folders_links_and_files_of_others_do_not_stop_pruning_and_stay(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_BYTES, "images", 150)
    save_cached("images", "old", bytes(100))
    folder, precious = root / "images", tmp_path / "precious"
    set_age(folder / "old.images", 100)
    (folder / "folder.images").mkdir()
    (folder / "notes.txt").write_bytes(bytes(1000))
    precious.write_bytes(bytes(1000))
    (folder / "link.images").symlink_to(precious)
    (folder / ".killed.tmp").write_bytes(bytes(1000))
    set_age(folder / ".killed.tmp", 200)
    save_cached("images", "new", bytes(100))
    assert names(folder) == {"new.images", "folder.images", "notes.txt", "link.images"}
    assert precious.stat().st_size == 1000


def test_downloads_are_never_deleted(root: Path) -> None:
    assert not {"weights", "mnist", "fashion-mnist", "cifar10"} & set(MAX_BYTES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_beyond_the_cap_or_half_of_the_free_disk_is_not_saved(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_BYTES, kind, 100)
    save_cached(kind, "a", bytes(101))
    monkeypatch.setattr(cache, "FREE_DISK_SHARE", 1e-12)
    save_cached(kind, "a", bytes(100))
    assert names(root / kind) == set()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_cache_of_somebody_else_is_read_but_not_written(root: Path) -> None:
    save_cached("models", "a", b"abc")
    (root / "models").chmod(0o500)
    try:
        save_cached("models", "b", b"abc")
        assert cached_file("models", "a") is not None
        assert cached_file("models", "b") is None
    finally:
        (root / "models").chmod(0o700)


def in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")


def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> str:
        raise RuntimeError("Could not determine home directory")

    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", refuse)


def disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize("harm", [in_the_way, no_home, disk_full], ids=lambda harm: harm.__name__)
def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    harm(tmp_path, monkeypatch)
    save_cached("features", "a", b"abc")
    assert cached_file("features", "a") is None
    prune("features")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "cache"]
    if harm is no_home:
        with pytest.raises(DataError, match=r"home folder is not known.*or name the file"):
            cache_folder("weights", otherwise="name the file")


# ---------------------------------------------------------------- features


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "other length", "other type"])
def test_damaged_features_are_computed_and_saved_again(root: Path, damage: str) -> None:
    calls: list[int] = []

    def double(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return 2 * x

    images, indices = np.arange(48, dtype=np.uint8).reshape(6, 2, 4, 1), np.array([5, 0, 3])
    preprocessing = Preprocessing(mean=(0.0,), std=(1.0,))

    def extract() -> np.ndarray:
        found = extract_features(
            Forward(double, "test"), images, indices, preprocessing, cache_key="key", on_progress=ignore_progress
        )
        assert found is not None
        return found

    expected = 2 / 255 * images[indices].transpose(0, 3, 1, 2)
    assert np.allclose(extract(), expected)
    assert np.allclose(extract(), expected)
    assert calls == [3]
    path = root / "features" / "key.npy"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-1],
            "empty": b"",
            "garbage": os.urandom(200),
            "other length": b"".join(array_content(np.zeros((2, 1, 2, 4), np.float32)).chunks()),
            "other type": b"".join(array_content(np.zeros((3, 1, 2, 4))).chunks()),
        }[damage]
    )
    assert np.allclose(extract(), expected)
    assert calls == [3, 3]
    assert path.read_bytes() == whole


# ---------------------------------------------------------------- models


def test_the_key_of_an_exported_model_covers_the_sources_and_libraries_that_make_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    read_bytes = Path.read_bytes

    def noted(path: Path) -> bytes:
        read.append(path.as_posix())
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    key = published_key("timm/resnet18.a1")
    assert key.startswith("timm-resnet18.a1-")
    made_by = ("inference/export.py", "inference/card.py", "models/zoo/pretrained.py", "models/zoo/weights.py")
    for part in (*made_by, "models/surgery/head.py", "models/saved.py", "data/decode/resize.py", "torch_internals.py"):
        assert any(path.endswith(f"convscope/{part}") for path in read), part
    for library in ("torch", "torchvision", "timm", "onnx"):
        assert any(path.endswith(f"/{library}/version.py") for path in read), library
    monkeypatch.setattr(Path, "read_bytes", lambda path: read_bytes(path) + b"changed")
    assert published_key("timm/resnet18.a1") != key


def test_a_damaged_model_is_exported_again_and_no_cache_is_needed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(image(90, 64))
    first = predict(EMBEDDED, photo)
    [path] = (root / "models").iterdir()
    whole = path.read_bytes()
    turned = bytearray(whole)
    turned[len(whole) // 2] ^= 0x40  # a weight, which ONNX Runtime would take as it is
    for damaged in (whole[:-1000], bytes(turned)):
        path.write_bytes(damaged)
        assert predict(EMBEDDED, photo) == first
        assert path.read_bytes() == whole
    monkeypatch.setattr(predict_module, "published_key", lambda model: pytest.fail("a file needs no key"))
    path.rename(tmp_path / MODEL_FILE)
    assert predict(tmp_path / MODEL_FILE, photo) == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / MODEL_FILE))
    stages: list[str] = []
    assert predict(EMBEDDED, photo, on_progress=lambda progress: stages.append(progress.stage)) == first
    assert sum("the cache folder cannot be written" in stage for stage in stages) == 1
