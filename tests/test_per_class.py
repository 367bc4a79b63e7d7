"""`--per-class` chooses before it decodes; `--memory` holds while images are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.load import load_images
from convscope.data.sources.build import Limit
from convscope.device import memory_in_use_bytes, peak_memory_bytes, release_freed_memory
from convscope.errors import UsageError
from convscope.progress import Progress
from convscope.seeds import permutation
from tests.support import CPU, make_tar, make_zip, write_folder

BROKEN = 5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_folder(tmp_path / "made")


def load(path: Path, per_class: int | None, **more: int) -> tuple[ImageSet, list[int]]:
    """Return the images, and how many files were opened for them, in one or several goes."""
    opened: list[int] = []

    def show(progress: Progress) -> None:
        if progress.done == progress.total:
            opened.append(progress.done)

    return load_images(DataConfig(source=str(path), per_class=per_class, **more), show), opened


def files_of(folder: Path, name: str) -> list[Path]:
    return sorted((folder / name).iterdir(), key=lambda path: path.name)


def test_only_the_chosen_files_are_opened(folder: Path) -> None:
    """Against a choice among all images, which all are decoded for: the same images in the same order."""
    everything, opened = load(folder, None)
    assert opened == [90]
    chosen = []
    for label in range(3):
        members = np.flatnonzero(everything.labels == label)
        chosen.append(members[permutation(30, 0, "per-class", "", label)[:4]])
    expected = everything.take(np.sort(np.concatenate(chosen)))
    for _ in range(2):  # decoded, and from the cache
        images, opened = load(folder, 4)
        assert opened == [12]
        assert images.fingerprint == expected.fingerprint
        assert images.ids == expected.ids
        assert images.notes == (
            *expected.notes,
            "78 files were not opened, broken or not: --per-class 4 is reached without them",
        )
    assert load(folder, 4, split_seed=1)[0].ids != expected.ids
    assert load(folder, 99)[0].fingerprint == everything.fingerprint


def test_a_broken_file_is_replaced_by_the_next_one_and_listed(folder: Path) -> None:
    names = files_of(folder, "class 1")
    order = permutation(30, 0, "per-class", "", 1)
    broken = [names[place] for place in order[1 : 1 + BROKEN]]
    for path in (*broken, names[order[20]]):  # the last is never reached
        path.write_bytes(path.read_bytes()[:60])
    images, opened = load(folder, 4)
    assert sum(opened) == 12 + BROKEN
    assert np.bincount(images.labels).tolist() == [4, 4, 4]
    of_class = {id_ for id_, label in zip(images.ids, images.labels, strict=True) if label == 1}
    assert of_class == {f"class 1/{names[place].name}" for place in (order[0], *order[1 + BROKEN : 4 + BROKEN])}
    assert {skipped.file for skipped in images.skipped} == {f"class 1/{path.name}" for path in broken}
    members = [(str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*.png")]
    for name, content in (("made.zip", make_zip(members)), ("made.tar", make_tar(members))):
        (folder.parent / name).write_bytes(content)
        for _ in range(2):
            assert load(folder.parent / name, 4)[0].fingerprint == images.fingerprint, name


def test_files_that_change_the_layout_are_all_opened(folder: Path) -> None:
    """A text file named like an image beside the class folders would make the source itself hold images."""
    whole = folder.parent / "around"
    whole.mkdir()
    folder.rename(whole / "made")
    before = load(whole, 4)[0]
    (whole / "readme.png").write_text("no image")
    images, opened = load(whole, 4)
    assert sum(opened) >= 91
    assert images.fingerprint == before.fingerprint
    assert [skipped.file for skipped in images.skipped] == ["readme.png"]


def test_files_of_no_class_are_still_named(folder: Path) -> None:
    Image.new("RGB", (12, 12)).save(folder / "stray.png")
    images, _ = load(folder, 4)
    assert [(skipped.file, skipped.reason) for skipped in images.skipped] == [("stray.png", "belongs to no class")]


def test_images_beyond_the_limit_are_refused_while_they_are_read(folder: Path) -> None:
    image_bytes = 12 * 12 * 3
    config = DataConfig(source=str(folder))
    enough, used = 2**45, 2**44
    assert len(load_images(config, limit=Limit(enough, used))) == 90
    for number in (50, 89):  # from the cache now
        limit = Limit(used + number * image_bytes, used, always_bytes=0)
        with pytest.raises(
            UsageError, match=r"too little for the images: \d+ of 90 take .*, all about 38.*--per-class"
        ):
            load_images(config, limit=limit)
        assert len(load_images(config, limit=replace(limit, always_bytes=2**20))) == 90  # so little is read in any case
    with pytest.raises(UsageError, match="1 of 90 take"):  # what the process takes counts, whatever the images take
        load_images(config, limit=Limit(2**20, 0))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure a peak again")
def test_images_are_never_held_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place in range(120):
        path = tmp_path / "made" / f"class {place % 2}" / f"{place}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (512, 512), (place, 0, 0)).save(path)
    config = DataConfig(source=str(tmp_path / "made"), image_size=512)
    load_images(replace(config, image_size=8))  # what is imported on the way does not count
    release_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_in_use_bytes(CPU)
    images = load_images(config, limit=Limit(2**45, before))
    assert peak_memory_bytes(CPU) - before < 1.5 * images.images.nbytes
