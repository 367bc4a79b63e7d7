"""Class folders on disk; the numbers in the ids are the cases of the reliability list."""

from __future__ import annotations

import io
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.load import load_images
from convscope.errors import DataError, UsageError
from convscope.progress import Progress
from tests.support import image, make_tree


def two_classes(**more: bytes) -> dict[str, bytes]:
    return {"cat/1.png": image(10), "cat/2.png": image(20), "dog/1.png": image(30), **more}


def load(root: Path, **options: object) -> ImageSet:
    return load_images(DataConfig(source=str(root), **options))  # type: ignore[arg-type]


def files_below(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))


def reasons(images: ImageSet) -> dict[str, str]:
    return {item.file: item.reason for item in images.skipped}


# ---------------------------------------------------------------- layouts


def test_classes_are_sorted_and_images_keep_their_labels(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "pets", {"dog/b.png": image(3), "cat/9.PNG": image(2), "cat/10.JPG": image(1)})
    reports: list[Progress] = []
    images = load_images(DataConfig(source=str(root)), reports.append)
    assert images.name == "pets"
    assert images.class_names == ("cat", "dog")
    assert images.ids == ("cat/10.JPG", "cat/9.PNG", "dog/b.png")
    assert images.labels.tolist() == [0, 0, 1]
    assert images.images[:, 0, 0].tolist() == [[1, 0, 254], [2, 1, 253], [3, 1, 252]]
    assert images.source_splits == ("", "", "")
    assert images.notes == ("extension does not match: PNG named .JPG (1): cat/10.JPG",)
    assert (reports[-1].done, reports[-1].total, reports[-1].stage) == (3, 3, "reading images")


@pytest.mark.parametrize("spelling", ["val", "valid", "validation", "Valid"])
def test_splits_come_from_split_folders(tmp_path: Path, spelling: str) -> None:
    names = [f"{split}/{kind}/1.png" for split in ("train", spelling, "test") for kind in ("cat", "dog")]
    images = load(make_tree(tmp_path, dict.fromkeys(names, image())))
    assert images.class_names == ("cat", "dog")
    assert {name.split("/")[0]: split for name, split in zip(images.ids, images.source_splits, strict=True)} == {
        "train": "train",
        spelling: "validation",
        "test": "test",
    }


@pytest.mark.parametrize(
    ("files", "class_names", "splits"),
    [
        pytest.param(["w/cat/1", "w/dog/1"], ("cat", "dog"), {""}, id="wrapper"),
        pytest.param(["w/v/cat/1", "w/v/dog/1"], ("cat", "dog"), {""}, id="two-wrappers"),
        pytest.param(["w/train/cat/1", "w/train/dog/1"], ("cat", "dog"), {"train"}, id="wrapper-and-split"),
        pytest.param(["train/cat/1", "train/dog/1"], ("cat", "dog"), {"train"}, id="one-split"),
        pytest.param(["w/cat/1", "w/dog/1", "readme.txt"], ("cat", "dog"), {""}, id="wrapper-beside-a-text"),
        pytest.param(["bus/1", "car/1", "train/1"], ("bus", "car", "train"), {""}, id="a-class-named-train"),
        pytest.param(["cat/x/y/1", "dog/x/1", "dog/2"], ("cat", "dog"), {""}, id="19-nested"),
        pytest.param(["cats/persian/1", "cats/siamese/1"], ("persian", "siamese"), {""}, id="one-folder-of-folders"),
        pytest.param(["train/cat/1", "train/dog/1", "test/1"], ("cat", "dog"), {"train"}, id="19-flat-test-split"),
        pytest.param(["cat/1", "dog/1", "1"], ("cat", "dog"), {""}, id="19-image-in-the-root"),
        pytest.param(
            ["train/cat/1", "train/dog/1", "extra/cow/1"], ("cat", "dog"), {"train"}, id="19-folder-beside-the-splits"
        ),
    ],
)
def test_layouts(tmp_path: Path, files: list[str], class_names: tuple[str, ...], splits: set[str]) -> None:
    root = make_tree(tmp_path, {name: b"hello" if name.endswith("txt") else image() for name in files})
    images = load(root)
    assert images.class_names == class_names
    assert set(images.source_splits) == splits
    assert len(images) + len(images.skipped) == len(files)
    for item in images.skipped:
        assert item.reason in ("belongs to no class", "not an image (looks like text)")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param(["cat/1"], "only one class, cat; a classifier needs two", id="one-class"),
        pytest.param(["w/cat/1", "w/cat/2"], "only one class, cat", id="one-class-in-a-wrapper"),
        pytest.param(["1", "2"], "no usable image of a class", id="no-folders"),
        pytest.param([], "no usable image of a class", id="nothing"),
        pytest.param(["train/1", "test/1"], "train look like splits but hold images", id="flat-splits"),
        pytest.param(
            ["train/a/1", "train/b/1", "test/a/1", "test/c/1"], "test split .* train split lacks: c", id="test"
        ),
        pytest.param(
            ["train/a/1", "train/b/1", "val/A/1"], "validation split .* train split lacks: A", id="validation"
        ),
        pytest.param(
            ["train/caf\u00e9/1", "train/b/1", "test/cafe\u0301/1"],
            r"rename .*; 'cafe\\u0301' and 'caf\\xe9' look the same",
            id="test-from-a-mac",
        ),
    ],
)
def test_an_untrainable_folder_is_an_error_that_shows_the_layout(
    tmp_path: Path, files: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(make_tree(tmp_path, dict.fromkeys(files, image())))
    assert "expected class/image.jpg" in str(caught.value) or "rename" in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        "seg_train/seg_train/{a,b}/1 seg_test/seg_test/{a,b}/1 seg_pred/seg_pred/1",
        "training_set/{a,b}/1 test_set/{a,b}/1 single_prediction/1",
        "w/TRAIN/train/{a,b}/1 w/Test/{a,b}/1",
        "train/images/{a,b}/1 test/images/{a,b}/1",
        "{a,b}/train/1 {a,b}/test/1",
    ],
)
def test_folders_that_hold_splits_are_no_classes(tmp_path: Path, files: str) -> None:
    names = [each.replace("{a,b}", k) for each in files.split() for k in ("ab" if "{" in each else "a")]
    images = load(make_tree(tmp_path, dict.fromkeys(names, image())))
    assert images.class_names == ("a", "b")
    assert sorted(images.source_splits) == ["test"] * 2 + ["train"] * 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["fold1/a/1", "fold1/b/1", "fold2/a/1", "fold2/b/1"], r"fold1, fold2 hold no images.*\(a, b\).*path,label"),
        (["a/1", "b/1", "copy/a/1", "copy/b/1"], "the folder copy holds folders of the same names"),
    ],
)
def test_other_folders_of_the_same_folders_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(make_tree(tmp_path, dict.fromkeys(files, image())))


def test_folders_that_convscope_wrote_are_never_data(tmp_path: Path) -> None:
    written = dict.fromkeys(
        ["runs/x-1/run.json", "runs/x-1/split.csv", "health-x/health.json", "health-x/health.html"], b""
    )
    images = load(make_tree(tmp_path, two_classes(**written)))
    assert (images.class_names, images.skipped, images.ignored) == (("cat", "dog"), (), 4)
    with pytest.raises(UsageError, match=r"that convscope wrote, not data.*--resume"):
        load(tmp_path / "runs/x-1")


def test_numbers_in_class_names_are_sorted_by_value(tmp_path: Path) -> None:
    images = load(make_tree(tmp_path, {f"{name}/1.png": image() for name in ("10", "2", "1", "a10", "a9")}))
    assert images.class_names == ("1", "2", "10", "a9", "a10")
    assert images.with_class_order(("10", "2", "1", "a10", "a9")).labels.tolist() == [2, 0, 1, 3, 4]


def test_a_folder_with_the_name_of_a_data_set_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path / "digits", two_classes())
    monkeypatch.chdir(tmp_path)
    assert "./digits" in load_images(DataConfig(source="digits")).notes[0]
    assert load_images(DataConfig(source="./digits")).class_names == ("cat", "dog")


def test_images_are_resized_as_configured(tmp_path: Path) -> None:
    """A white middle in a black frame: cutting away a quarter on each side leaves only the middle."""
    buffer = io.BytesIO()
    image = Image.new("L", (32, 32))
    image.paste(255, (8, 8, 24, 24))
    image.save(buffer, "PNG")
    root = make_tree(tmp_path, {"cat/1.png": buffer.getvalue(), "dog/1.png": buffer.getvalue()})
    assert load(root, image_size=8).images.min() == 0
    assert load(root, image_size=8, crop_fraction=0.5).images.min() > 128  # the filter reaches over the edge a little


def test_a_class_without_test_images_is_a_note(tmp_path: Path) -> None:
    images = load(make_tree(tmp_path, dict.fromkeys(["train/a/1.png", "train/b/1.png", "test/a/1.png"], image())))
    assert images.notes == ("the test split has no image of b",)


# ---------------------------------------------------------------- files


def test_15_files_of_file_browsers_are_counted_and_never_a_class(tmp_path: Path) -> None:
    names = [
        ".DS_Store",
        "cat/Thumbs.db",
        "cat/desktop.ini",
        ".ipynb_checkpoints/1.png",
        "__MACOSX/cat/._1.png",
        ".x/y/z",
    ]
    images = load(make_tree(tmp_path, two_classes(**dict.fromkeys(names, image()))))
    assert images.class_names == ("cat", "dog")
    assert (len(images), images.skipped, images.ignored) == (3, (), 6)


@pytest.mark.parametrize("content", [None, b"", b"text"], ids=["no-file", "empty-file", "text"])
def test_16_an_empty_class_folder_is_an_error_or_dropped(tmp_path: Path, content: bytes | None) -> None:
    root = make_tree(tmp_path, two_classes(**({} if content is None else {"cow/1.jpg": content})))
    (root / "cow").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=r"class cow.*--drop-empty"):
        load(root)
    images = load(root, drop_empty=True)
    assert images.class_names == ("cat", "dog")
    assert images.notes == ("class cow is empty and was left out",)
    assert len(images.skipped) == (content is not None)


def test_17_a_class_of_one_image_is_loaded(tmp_path: Path) -> None:
    images = load(make_tree(tmp_path, two_classes()))
    assert np.bincount(images.labels).tolist() == [2, 1]


ODD_NAMES = [
    "x" * 251 + ".png",
    "😀👩‍🚀.png",
    "a\nb.png",
    "\x1b[31mred.png",
    "-rf.png",
    "=1+1.png",
    "a b.png",
    "\\x0a.png",
]


@pytest.mark.parametrize("name", [*ODD_NAMES, b"\xff\xfe.png".decode(errors="surrogateescape")])
def test_20_odd_names_are_shown_on_one_line(tmp_path: Path, name: str) -> None:
    try:
        root = make_tree(tmp_path, two_classes(**{f"dog/{name}": image(), f"cat/{name}.txt"[-250:]: b"text"}))
    except OSError as error:
        pytest.skip(f"this file system does not take the name: {error}")
    images = load(root)
    assert len(images) + len(images.skipped) == files_below(root)
    for shown in (*images.ids, *(item.file for item in images.skipped)):
        assert len(shown.splitlines()) == 1
        assert "\x1b" not in shown
        assert shown.encode()


def test_20_class_folders_may_have_odd_names(tmp_path: Path) -> None:
    names = ["-", "a\nb", b"\xe9".decode(errors="surrogateescape"), "x" * 255]
    images = load(make_tree(tmp_path, {f"{name}/1.png": image() for name in names}))
    assert images.class_names == ("-", "a\\x0ab", "x" * 255, "\\xe9")


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("caf\u00e9", "cafe\u0301")], ids=["capitals", "unicode-form"])
def test_21_classes_that_look_alike_are_kept_apart_with_a_note(tmp_path: Path, pair: tuple[str, str]) -> None:
    root = make_tree(tmp_path, {f"{pair[0]}/1.png": image(), f"{pair[1]}/2.png": image()})
    if len(list(root.iterdir())) < 2:
        pytest.skip("this file system cannot hold both names")
    images = load(root)
    assert images.num_classes == 2
    assert len(set(images.class_names)) == 2
    assert len(images.notes) == 1
    assert all(ascii(name) in images.notes[0] for name in pair)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user who is not root: root may read everything."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this system has no file modes")
    folder = Path(tempfile.mkdtemp(prefix="convscope-test-"))
    if os.geteuid() != 0:
        yield folder
    else:
        nobody = 65534
        try:
            os.chown(folder, nobody, nobody)
            os.seteuid(nobody)
        except OSError:
            shutil.rmtree(folder)
            pytest.skip("running as root without the right to become another user: mode 000 is readable")
        try:
            yield folder
        finally:
            os.seteuid(0)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)
    shutil.rmtree(folder)


def test_22_what_may_not_be_read_is_listed(unprivileged: Path) -> None:
    root = make_tree(unprivileged, two_classes(**{"cat/secret.png": image(), "dog/deep/1.png": image()}))
    (root / "cat/secret.png").chmod(0)
    (root / "dog/deep").chmod(0)
    images = load(root)
    assert reasons(images) == {"cat/secret.png": "permission denied", "dog/deep": "permission denied"}
    assert len(images) == 3
    (root / "dog").chmod(0)
    with pytest.raises(DataError, match=r"class dog \(.*permission denied.*--drop-empty"):
        load(root)
    root.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        load(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_25_fifos_and_sockets_are_listed_and_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree(tmp_path, two_classes())
    os.mkfifo(root / "cat/x.jpg")
    os.mkfifo(root / "cow.jpg")
    monkeypatch.chdir(root / "dog")  # the name of a socket may be at most 108 bytes long
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("y.jpg")
        start = time.perf_counter()
        images = load(root)
    assert time.perf_counter() - start < 5
    assert reasons(images) == {
        "cat/x.jpg": "not a regular file (FIFO)",
        "cow.jpg": "not a regular file (FIFO)",
        "dog/y.jpg": "not a regular file (socket)",
    }


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    other = make_tree(tmp_path / "other", {"1.png": image(), "2.png": image()})
    root = make_tree(tmp_path / "root", two_classes())
    (root / "cat/loop").symlink_to(root)
    (root / "cat/self.png").symlink_to("self.png")
    (root / "cat/gone.png").symlink_to(root / "nothing")
    (root / "cat/3.png").symlink_to(other / "1.png")
    (root / "a-second-dog").symlink_to(root / "dog")
    (root / "cow").symlink_to(other)
    images = load(root)
    assert images.class_names == ("cat", "cow", "dog")
    assert len(images) == 6
    assert reasons(images) == {
        "a-second-dog": "link to a folder that was read already",
        "cat/loop": "link to a folder that was read already",
        "cat/gone.png": "not there any more",
        "cat/self.png": "cannot be read (Too many levels of symbolic links)",
    }


def test_a_tree_is_left_as_it_was(tmp_path: Path) -> None:
    root = make_tree(tmp_path, two_classes(**{"cat/bad.jpg": b"\xff\xd8\xff"}))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")}
    load(root)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")} == before


def test_accepted_and_skipped_are_all_that_was_found(tmp_path: Path) -> None:
    """100 files, 10 of them corrupt, each kind of damage twice."""
    whole = image(kind="JPEG", side=40)
    damage = [b"", b"text", whole[:100], whole[: len(whole) * 9 // 10], b"II*\0" + bytes(9)]
    files = {f"{'cat' if index % 2 else 'dog'}/{index}.jpg": image(index, 40, "JPEG") for index in range(90)}
    bad = {f"{'cat' if index % 2 else 'dog'}/bad{index}.jpg": damage[index % 5] for index in range(10)}
    images = load(make_tree(tmp_path, files | bad))
    assert {item.file for item in images.skipped} == set(bad)
    assert set(images.ids) == set(files)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("sides", "options", "expected", "noted"),
    [
        pytest.param((28, 28, 28), {}, (28, 28, 3), False, id="own-size"),
        pytest.param((96, 96, 96), {"gray": True}, (96, 96, 1), False, id="largest-own-size"),
        pytest.param((28, 28, 32), {}, (64, 64, 3), True, id="two-sizes"),
        pytest.param((97, 97, 97), {"gray": True}, (64, 64, 1), True, id="too-large"),
        pytest.param((64, 64, 200), {}, (64, 64, 3), True, id="one-too-large"),
        pytest.param((28, 32, 200), {"image_size": 10}, (10, 10, 3), False, id="given"),
    ],
)
def test_the_size_of_the_images(
    tmp_path: Path, sides: tuple[int, ...], options: dict[str, object], expected: tuple[int, ...], noted: bool
) -> None:
    pixels = [image(50, side) for side in sides]
    images = load(make_tree(tmp_path, dict(zip(["a/1.png", "a/2.png", "b/1.png"], pixels, strict=True))), **options)
    assert images.images.shape[1:] == expected
    assert any("--image-size" in note for note in images.notes) == noted
    if expected[2] == 3:
        assert np.all(np.abs(images.images.astype(int) - [50, 25, 205]) <= 1)


def test_the_default_size_is_that_of_asking_for_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    root = make_tree(tmp_path, {"a/1.png": buffer.getvalue(), "b/1.png": image(50, 100)})
    for gray in (False, True):
        assert load(root, gray=gray).fingerprint == load(root, gray=gray, image_size=64).fingerprint


def test_truncated_images_are_marked_when_allowed(tmp_path: Path) -> None:
    whole = image(kind="JPEG", side=40)
    root = make_tree(tmp_path, two_classes(**{"cat/cut.jpg": whole[:-20]}))
    assert reasons(load(root)) == {"cat/cut.jpg": "truncated"}
    images = load(root, allow_truncated=True)
    assert images.skipped == ()
    assert "truncated: missing pixels are filled in (1): cat/cut.jpg" in images.notes
