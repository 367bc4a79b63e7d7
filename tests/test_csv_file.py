"""Images named in a CSV: what its rows may look like, and that no row is silently lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.load import load_images
from convscope.data.sources.image_files import read_members
from convscope.errors import DataError
from tests.support import image, make_tree

IMAGES = {
    "pets/cat/1.png": image(10),
    "pets/cat/2.png": image(20),
    "pets/dog/1.png": image(30),
    "pets/5, big.png": image(40),
}
ROWS = "path,label\ncat/1.png,cat\ncat/2.png,cat\ndog/1.png,dog\n"


def load(folder: Path, text: str | bytes, *, name: str = "pets.csv", **options: object) -> ImageSet:
    if not (folder / "pets/cat").exists():
        make_tree(folder, IMAGES)
    path = folder / "pets" / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_images(DataConfig(source=str(path), **options))  # type: ignore[arg-type]


def reasons(images: ImageSet) -> dict[str, str]:
    return {item.file: item.reason for item in images.skipped}


def test_a_csv_gives_what_its_folder_gives(tmp_path: Path) -> None:
    images = load(tmp_path, ROWS)
    (tmp_path / "pets/5, big.png").unlink()
    (tmp_path / "pets/pets.csv").unlink()
    folder = load_images(DataConfig(source=str(tmp_path / "pets")))
    assert images.fingerprint == folder.fingerprint
    assert images.name == "pets.csv"
    assert (images.ids, images.class_names) == (folder.ids, ("cat", "dog"))
    assert images.labels.tolist() == [0, 0, 1]
    assert images.skipped == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(ROWS.encode("utf-8-sig"), "a.csv", id="bom"),
        pytest.param(ROWS.encode("utf-16"), "a.CSV", id="utf-16"),
        pytest.param(ROWS.replace("\n", "\r\n").encode(), "a.csv", id="windows-lines"),
        pytest.param(ROWS.replace(",", ";").encode(), "a.csv", id="semicolons"),
        pytest.param(ROWS.replace(",", "\t").encode(), "a.tsv", id="tabs"),
        pytest.param(ROWS.replace("\n", "\r").encode(), "a.csv", id="cr-lines"),
        pytest.param(b"sep=;\r\n" + ROWS.replace(",", ";").encode(), "a.csv", id="sep-line"),
        pytest.param(ROWS.strip().encode(), "a.csv", id="no-last-line-end"),
        pytest.param(ROWS.replace("\n", "\n\n").encode(), "a.csv", id="empty-lines"),
        pytest.param(
            b'Label,"Path",note\ncat,./cat/1.png,"a ""b""\nc"\n cat ,cat/../cat/2.png\ndog,dog/1.png,,',
            "a.csv",
            id="quoted",
        ),
        pytest.param(b"path,label\ncat\\1.png,cat\ncat\\2.png,cat\ndog\\1.png,dog", "a.csv", id="backslashes"),
    ],
)
def test_spellings_of_one_table(tmp_path: Path, text: bytes, name: str) -> None:
    plain, other = load(tmp_path, ROWS), load(tmp_path, text, name=name)
    assert (other.images == plain.images).all()
    assert other.labels.tolist() == plain.labels.tolist()
    assert other.class_names == plain.class_names
    assert other.skipped == ()
    contents = read_members(tmp_path / "pets" / name, set(other.ids))
    assert [contents[each] for each in other.ids] == list(IMAGES.values())[:3]


def test_paths_may_be_outside_the_csv_folder_or_absolute_and_contain_commas(tmp_path: Path) -> None:
    make_tree(tmp_path, {"other/1.png": image(90)})
    text = f'path,label\n"5, big.png",cat\n../other/1.png,dog\n{tmp_path}/pets/cat/1.png,cat\n'
    images = load(tmp_path, text)
    assert set(images.ids) == {"5, big.png", "../other/1.png", f"{tmp_path}/pets/cat/1.png"}
    assert images.skipped == ()


def test_split_words_are_those_of_split_folders_and_may_be_empty(tmp_path: Path) -> None:
    text = "path,label,split\ncat/1.png,cat, Train\ncat/2.png,cat,VAL\ndog/1.png,dog,\n"
    assert load(tmp_path, text).source_splits == ("train", "validation", "")


def test_a_column_like_split_is_used_or_noted(tmp_path: Path) -> None:
    text = "path,label,{}\ncat/1.png,cat,{}\ncat/2.png,cat,{}\ndog/1.png,dog,{}\n"
    images = load(tmp_path, text.format("set", "train", "test_set", "train"))
    assert (images.source_splits, images.notes[0]) == (("train", "test", "train"), "column 'set' gives the splits")
    images = load(tmp_path, text.format("fold", 1, 2, 2))
    assert (set(images.source_splits), "column 'fold' (1, 2) was not used" in images.notes[0]) == ({""}, True)


def test_rows_without_an_image_are_skipped(tmp_path: Path) -> None:
    make_tree(tmp_path, {"pets/notes.jpg": b"dear diary"})
    text = ROWS + (
        "cat/3.png,cat\ndog,dog\n,cat\ncat/1.png,cat\ncat/2.png,dog\ndog/2.png\n"
        "notes.jpg,dog\nnul\0.png,dog\n\x1b[31m.png,dog\n"
    )
    images = load(tmp_path, text)
    assert len(images) == 3
    assert reasons(images) == {
        "cat/3.png": "no such file",
        "dog": "a folder, not an image",
        "line 7": "no path",
        "cat/1.png": "second row of this path (line 8)",
        "cat/2.png": "second row of this path (line 9, with another label or split)",
        "dog/2.png": "no label",
        "notes.jpg": "not an image (looks like text)",
        "nul\\x00.png": "no such file",
        "\\x1b[31m.png": "no such file",
    }
    assert len(images) + len(images.skipped) == text.count("\n") - 1
    assert all(item.remedy for item in images.skipped)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "no column 'path' and no column 'label'", id="empty"),
        pytest.param("file,class\na.png,cat\n", "first line is 'file,class'.*path,label,split", id="other-columns"),
        pytest.param("cat/1.png,cat\n", "first line is 'cat/1.png,cat'", id="no-header"),
        pytest.param("x" * 200_000, "line 1: not a row of a CSV", id="long-line"),
        pytest.param("path,kind\na.png,cat\n", "has no column 'label'; its first line", id="no-label"),
        pytest.param(
            "path,label,split\ncat/1.png,cat,trian\n", "line 2: unknown split 'trian'; expected train", id="split"
        ),
        pytest.param('path,label\n"cat/1.png,cat\n', "not a row of a CSV", id="open-quote"),
        pytest.param('path,label\n"cat"/1.png,cat\n', 'line 2: not a row.*"5"" disk.jpg"', id="stray-quote"),
        pytest.param(
            "path,label\ncat/1.png,caf\xe9\n".encode("latin-1"), r"not text in UTF-8 \(line 2\)", id="latin-1"
        ),
        pytest.param("path,label\ncat/1.png,cat\ncat/2.png,cat\n", "only one class, cat", id="one-class"),
        pytest.param("path,label\nno.png,cat\nnone.png,dog\n", "no usable image.*no.png: no such file", id="nothing"),
        pytest.param(
            ROWS + "no.png,cow\n", "no usable image of class cow .*no such file.*--drop-empty", id="empty-class"
        ),
        pytest.param(
            "path,label,split\ncat/1.png,cat,train\ncat/2.png,cat,\ndog/1.png,dog,test\n",
            "test split has classes that the train split lacks: dog",
            id="test-alone",
        ),
    ],
)
def test_an_invalid_csv_is_an_error_that_says_where(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, text)


def test_a_class_only_in_rows_without_split_is_trained_on(tmp_path: Path) -> None:
    text = "path,label,split\ncat/1.png,cat,train\ndog/1.png,dog,\ncat/2.png,dog,test\n"
    assert load(tmp_path, text).notes == ("the test split has no image of cat",)


def test_a_class_without_images_may_be_dropped(tmp_path: Path) -> None:
    images = load(tmp_path, ROWS + "no.png,cow\n", drop_empty=True)
    assert images.class_names == ("cat", "dog")
    assert images.notes == ("class cow is empty and was left out",)


def test_the_second_use_is_the_same_and_a_changed_label_counts(tmp_path: Path) -> None:
    first, second = load(tmp_path, ROWS), load(tmp_path, ROWS)
    assert first.fingerprint == second.fingerprint
    assert second.images.base is not None  # mapped from the cache
    changed = load(tmp_path, ROWS.replace("2.png,cat", "2.png,dog"))
    assert changed.labels.tolist() == [0, 1, 1]
    assert (changed.images == first.images).all()
