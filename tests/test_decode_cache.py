"""Decoded images on disk: nothing stale is ever used, and nothing depends on the cache."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.decode import cache as decode_cache
from convscope.data.decode.files import Entry
from convscope.data.load import load_images
from convscope.data.sources import build as build_dataset
from convscope.data.sources import folder
from convscope.errors import DataError
from convscope.storage import cache
from convscope.storage.cache import cache_folder
from tests.support import PACKERS, image, make_tar, make_tree, make_zip

FILES = {
    **{f"cat/{i}.png": image(10 + i, 20) for i in range(4)},
    **{f"dog/{i}.jpg": image(90 + i, 30, "JPEG") for i in range(3)},
    "dog/odd.jpg": image(70, 24),  # a PNG: noted
    "cat/bad.jpg": b"no image",
    "cat/Thumbs.db": b"x",
}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Return a function that lists the files decoded since its last call; the cache begins empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen: list[str] = []
    decode_many = build_dataset.decode_many

    def watched(entries: Iterable[Entry], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        def noted() -> Iterator[Entry]:
            for entry in entries:
                seen.append(entry.name)
                yield entry

        return decode_many(noted(), *arguments, **options)

    monkeypatch.setattr(build_dataset, "decode_many", watched)

    def names() -> list[str]:
        found = sorted(seen)
        seen.clear()
        return found

    return names


def load(source: Path, **options: object) -> ImageSet:
    return load_images(DataConfig(source=str(source), **{"image_size": 16, **options}))  # type: ignore[arg-type]


def same(one: ImageSet, other: ImageSet) -> bool:
    facts = ("ids", "source_splits", "class_names", "skipped", "ignored", "notes", "fingerprint")
    return all(getattr(one, name) == getattr(other, name) for name in facts)


def cache_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/convscope/images").iterdir())


@pytest.mark.parametrize("kind", ["folder", "zip", *PACKERS])
@pytest.mark.parametrize("size", [16, None])
def test_the_second_use_decodes_nothing_and_is_the_same(
    tmp_path: Path, decoded: Callable[[], list[str]], kind: str, size: int | None
) -> None:
    path = tmp_path / f"pets.{kind}"
    if kind == "folder":
        make_tree(path, FILES)
    else:
        members = list(reversed(FILES.items()))  # rows are in the order of paths all the same
        path.write_bytes(make_zip(members) if kind == "zip" else PACKERS[kind](make_tar(members)))
    first = load(path, image_size=size)
    assert len(decoded()) == len(FILES) - 1
    second = load(path, image_size=size)
    assert decoded() == []
    assert same(first, second)
    assert not second.images.flags.writeable
    assert second.images.base is not None  # mapped, not read


def test_only_what_changed_is_decoded_again(tmp_path: Path, decoded: Callable[[], list[str]]) -> None:
    root = make_tree(tmp_path / "pets", FILES)
    load(root)
    decoded()
    before = (root / "cat/1.png").stat()
    (root / "cat/1.png").write_bytes(image(200, 20)[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(root / "cat/1.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # size and time as they were
    (root / "cat/new.png").write_bytes(image(33))
    (root / "dog/0.jpg").unlink()
    changed = load(root)
    assert decoded() == ["cat/1.png", "cat/new.png"]
    (tmp_path / "elsewhere").mkdir()
    copies = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.*")}
    fresh = load(make_tree(tmp_path / "elsewhere/pets", copies))
    assert same(changed, fresh)
    decoded()
    assert same(load(root), fresh)
    assert decoded() == []


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 12},
        {"gray": True},
        {"resize": "squash"},
        {"crop_fraction": 0.5},
        {"interpolation": "lanczos"},
        {"allow_truncated": True},
        {"max_pixels": 500},
    ],
)
def test_other_options_have_their_own_cache_file(
    tmp_path: Path, decoded: Callable[[], list[str]], options: dict[str, object]
) -> None:
    root = make_tree(tmp_path / "pets", FILES | {"dog/small.png": image(5, 8)})
    load(root)
    decoded()
    load(root, **options)
    assert len(decoded()) == len(FILES)
    load(root)
    load(root, **options)
    assert decoded() == []


def test_another_decoder_decodes_again(
    tmp_path: Path, decoded: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_tree(tmp_path / "pets", FILES)
    load(root)
    decoded()
    monkeypatch.setattr(decode_cache, "decoder_version", lambda: "newer")
    load(root)
    assert len(decoded()) == len(FILES) - 1


def test_sizes_that_depend_on_other_images_are_not_used_without_them(
    tmp_path: Path, decoded: Callable[[], list[str]]
) -> None:
    root = make_tree(tmp_path / "pets", {"cat/1.png": image(1, 20), "dog/1.png": image(2, 20)})
    (root / "dog/2.png").write_bytes(image(3, 40))
    assert load(root, image_size=None).images.shape[1] == 64
    (root / "dog/2.png").unlink()
    assert load(root, image_size=None).images.shape[1] == 20


def test_what_could_not_be_read_is_tried_again(
    tmp_path: Path, decoded: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_tree(tmp_path / "pets", FILES)
    whole = load(make_tree(tmp_path / "other/pets", FILES))
    read, refused = folder.read_limited, [root / "cat/1.png"]

    def read_or_refuse(path: Path, limit: int) -> bytes:
        if path in refused:
            raise PermissionError(13, "Permission denied")
        return read(path, limit)

    monkeypatch.setattr(folder, "read_limited", read_or_refuse)
    assert "permission denied" in {item.reason for item in load(root).skipped}
    decoded()
    refused.clear()
    assert same(load(root), whole)
    assert decoded() == ["cat/1.png"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "folder"])
def test_a_damaged_cache_file_is_replaced(tmp_path: Path, decoded: Callable[[], list[str]], damage: str) -> None:
    root = make_tree(tmp_path / "pets", FILES)
    first = load(root)
    decoded()
    [path] = cache_files(tmp_path)
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        at = len(content) - 50
        flipped = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
        path.write_bytes({"cut": content[:-40], "flipped": flipped, "empty": b""}[damage])
    assert same(first, load(root))
    assert len(decoded()) == len(FILES) - 1


def test_an_image_whose_pixels_changed_in_the_cache_is_decoded_again(
    tmp_path: Path, decoded: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_cache, "BLOCK_BYTES", 64)  # less than an image
    root = make_tree(tmp_path / "pets", FILES)
    first = load(root)
    decoded()
    [path] = cache_files(tmp_path)
    whole = path.read_bytes()
    at = first.images[:1].nbytes + 5  # in the second image
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    assert same(first, load(root))
    assert decoded() == [first.ids[1]]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_loading_works_without_a_cache_folder(
    tmp_path: Path, decoded: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "blocked").write_text("a file where the cache should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    if place == "no home":

        def refuse(_: str) -> str:
            raise RuntimeError("Could not determine home directory")

        monkeypatch.setattr(cache.platformdirs, "user_cache_dir", refuse)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match="home folder is not known"):
            cache_folder("images", otherwise="")
    before = sorted(tmp_path.rglob("*"))
    root = make_tree(tmp_path / "pets", FILES)
    assert same(load(root), load(root))
    assert len(decoded()) == 2 * (len(FILES) - 1)
    assert [path for path in sorted(tmp_path.rglob("*")) if root not in (path, *path.parents)] == before


def test_the_files_used_longest_ago_are_deleted(
    tmp_path: Path, decoded: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [make_tree(tmp_path / f"pets{number}", FILES) for number in range(3)]
    for age, root in enumerate(roots[:2]):
        load(root)
        for path in cache_files(tmp_path):
            os.utime(path, ns=(age, path.stat().st_mtime_ns - 10**12))
    size = cache_files(tmp_path)[0].stat().st_size
    load(roots[0])  # used again: now the second is the oldest
    monkeypatch.setitem(cache.MAX_BYTES, "images", int(2.5 * size))
    load(roots[2])
    assert len(cache_files(tmp_path)) == 2
    decoded()
    load(roots[0])
    load(roots[2])
    assert decoded() == []
    load(roots[1])
    assert len(decoded()) == len(FILES) - 1


def test_a_full_disk_leaves_no_half_written_file(
    tmp_path: Path, decoded: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    root = make_tree(tmp_path / "pets", FILES)
    first = load(root)
    assert cache_files(tmp_path) == []
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert same(first, load(root))
    assert len(cache_files(tmp_path)) == 1


def test_an_archive_with_a_stray_image_is_read_but_not_decoded_again(
    tmp_path: Path, decoded: Callable[[], list[str]]
) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(make_zip([*FILES.items(), ("stray.png", image(5))]))
    first = load(path)
    decoded()
    assert same(first, load(path))
    assert decoded() == ["stray.png"]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("dog/more.png", image(6))
    assert len(load(path)) == len(first) + 1
    assert len(decoded()) == len(FILES) + 1


def test_pixels_are_those_of_decoding(tmp_path: Path, decoded: Callable[[], list[str]]) -> None:
    root = make_tree(tmp_path / "pets", FILES)
    for gray in (False, True):
        first, second = (load(root, gray=gray).images.copy() for _ in range(2))
        assert np.array_equal(first, second)
