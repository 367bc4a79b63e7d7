"""Zips and tars of class folders; the numbers in the ids are the cases of the reliability list."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.load import load_images
from convscope.data.sources import archive
from convscope.data.sources.archive import is_zip
from convscope.errors import DataError
from convscope.progress import Progress
from tests.support import PACKERS, Members, make_tar, make_zip, regular

T = TypeVar("T")
KINDS = ("zip", *PACKERS)


def image(shade: int = 100, side: int = 8) -> bytes:
    noise = np.random.default_rng(shade).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def two_classes() -> Members:
    return [("cat/1.png", image(1)), ("dog/1.png", image(2)), ("cat/2.png", image(3))]


def make(kind: str, members: Members) -> bytes:
    return make_zip(members) if kind == "zip" else PACKERS[kind](make_tar(members))


def load(content: bytes, tmp_path: Path, **options: object) -> ImageSet:
    path = tmp_path / "made.archive"
    path.write_bytes(content)
    before = tree_hash(tmp_path)
    try:
        return load_images(DataConfig(source=str(path), **options))  # type: ignore[arg-type]
    finally:
        assert tree_hash(tmp_path) == before, "something was written"


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def refusal(content: bytes, tmp_path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load(content, tmp_path, **options)
    return str(caught.value)


def reasons(images: ImageSet) -> Mapping[str, str]:
    return {item.file: item.reason for item in images.skipped}


# ---------------------------------------------------------------- the same as a folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_gives_what_its_folder_gives(kind: str, tmp_path: Path) -> None:
    members = [
        *((f"w/train/{label}/{index}.png", image(index, 20)) for label in ("dog", "cat") for index in range(5)),
        ("w/train/" + "long" * 40 + "/" + "é" * 90 + ".png", image(7, 20)),
        ("w/test/dog/deep/down/1.png", image(8, 30)),
        ("w/test/dog/bad.jpg", b"\xff\xd8\xff"),
        ("w/test/flat.png", image(9)),
        ("w/test/dog/Thumbs.db", b"x"),
        ("__MACOSX/w/._1", b"x"),
        ("readme.txt", b"read me"),
    ]
    root = tmp_path / "folder"
    for name, content in members:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    expected = load_images(DataConfig(source=str(root)))
    images = load(make(kind, members), tmp_path)
    assert images.fingerprint == expected.fingerprint
    assert (images.skipped, images.ignored, images.notes) == (expected.skipped, expected.ignored, expected.notes)
    assert len(images) + len(images.skipped) + images.ignored == len(members)


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_formats_of_tar_headers_are_read(format_: int, tmp_path: Path) -> None:
    members = [*two_classes(), ("dog/" + "x" * 90 + ".png", image(4)), ("y" * 90 + "/" + "x" * 60, image(5))]
    images = load(make_tar(members, format_=format_), tmp_path)
    assert set(images.ids) == {name for name, _ in members}


def test_the_quick_header_reads_what_tarfile_reads() -> None:
    for name, size in (("a.png", 0), ("a/" * 40 + "é.png", 8**11 - 1), ("x" * 99, 513)):
        block = regular(name, size).tobuf(tarfile.USTAR_FORMAT)
        quick, slow = (kind.frombuf(block, "utf-8", "surrogateescape") for kind in (archive._Member, tarfile.TarInfo))
        assert (quick.name, quick.size, quick.type) == (slow.name, slow.size, slow.type)
    for damage in (0, 124, 150, 156, 300):
        broken = block[:damage] + bytes([block[damage] ^ 1]) + block[damage + 1 :]
        with pytest.raises(tarfile.TarError):
            archive._Member.frombuf(broken, "utf-8", "surrogateescape")


def test_progress_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip(two_classes()))
    reports: list[Progress] = []
    load_images(DataConfig(source=str(path)), reports.append)
    assert (reports[-1].done, reports[-1].total) == (3, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_16_an_empty_class_folder_in_an_archive(kind: str, tmp_path: Path) -> None:
    members = [*two_classes(), ("cow/", b"")]
    assert "class cow" in refusal(make(kind, members), tmp_path)
    assert load(make(kind, members), tmp_path, drop_empty=True).class_names == ("cat", "dog")


def test_backslashes_in_a_zip_divide_folders(tmp_path: Path) -> None:
    images = load(make_zip([(name.replace("/", "\\"), content) for name, content in two_classes()]), tmp_path)
    assert images.ids == ("cat/1.png", "cat/2.png", "dog/1.png")


def test_names_in_utf_8_need_no_flag(tmp_path: Path) -> None:
    content = make_zip([(name.replace("cat", "\u00c9\u00c9\u00c9"), data) for name, data in two_classes()])
    content = content.replace("\u00c9\u00c9\u00c9".encode(), "cafe\u0301".encode())
    plain = bytearray(content)
    for magic, at in ((b"PK\3\4", 7), (b"PK\1\2", 9)):
        start = -1
        while (start := plain.find(magic, start + 1)) >= 0:
            plain[start + at] &= ~8
    assert load(bytes(plain), tmp_path).class_names == ("cafe\u0301", "dog")


@pytest.mark.parametrize("kind", KINDS)
def test_folders_that_convscope_wrote_are_no_classes(kind: str, tmp_path: Path) -> None:
    written = [("runs/x-1/run.json", b"{}"), ("runs/x-1/split.csv", b"a"), ("runs/x-1/1.png", image(9))]
    images = load(make(kind, [*two_classes(), *written]), tmp_path)
    assert images.class_names == ("cat", "dog")
    assert reasons(images)["runs/x-1/1.png"] == "belongs to no class"


# ---------------------------------------------------------------- members that are skipped


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "C:\\x.png", "a/../../x.png", "cat/../3.png", "//h/x.png"])
def test_28_names_that_lead_out_are_listed(kind: str, name: str, tmp_path: Path) -> None:
    images = load(make(kind, [*two_classes(), (name, image())]), tmp_path)
    assert len(images) == 3
    assert list(reasons(images).values()) == ["name leads out of the archive"]


def test_28_links_and_devices_in_a_tar_are_listed(tmp_path: Path) -> None:
    kinds = {
        "symbolic link": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
        "device": tarfile.CHRTYPE,
        "FIFO": tarfile.FIFOTYPE,
        "unknown type": b"Z",
    }
    others = []
    for name, type_ in kinds.items():
        info = tarfile.TarInfo(f"cat/{name}")
        info.type, info.linkname = type_, "/etc"
        others.append(info)
    through = ("cat/symbolic link/passwd.png", image(9))
    images = load(make_tar([*two_classes(), through], *others), tmp_path)
    assert reasons(images) == {f"cat/{name}": f"not a regular file ({name})" for name in kinds}
    assert len(images) == 4


def test_28_a_link_in_a_zip_is_listed(tmp_path: Path) -> None:
    buffer = io.BytesIO(make_zip(two_classes()))
    with zipfile.ZipFile(buffer, "a") as made:
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = 0o120777 << 16
        made.writestr(link, "/etc/passwd")
    assert reasons(load(buffer.getvalue(), tmp_path)) == {"cat/link.png": "not a regular file (symbolic link)"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", KINDS)
def test_the_second_member_of_a_name_is_listed(kind: str, tmp_path: Path) -> None:
    images = load(make(kind, [*two_classes(), ("cat/./1.png", image(9)), ("cat/1.png", image(8))]), tmp_path)
    assert [item.reason for item in images.skipped] == ["second member of this name"] * 2
    assert np.array_equal(images.images, load(make(kind, two_classes()), tmp_path).images)


@pytest.mark.parametrize("kind", KINDS)
def test_30_a_nested_archive_is_listed(kind: str, tmp_path: Path) -> None:
    images = load(make(kind, [*two_classes(), ("cat/more.zip", make_zip(two_classes()))]), tmp_path)
    assert reasons(images) == {"cat/more.zip": "nested archive"}


def test_a_zip_member_with_a_wrong_checksum_is_listed(tmp_path: Path) -> None:
    content = bytearray(make_zip(two_classes(), method=zipfile.ZIP_STORED))
    content[content.index(b"IDAT") + 8] ^= 1
    found = reasons(load(bytes(content), tmp_path))
    assert list(found) == ["cat/1.png"]
    assert "Bad CRC-32" in found["cat/1.png"]


def test_a_zip_member_packed_with_bzip2_is_listed(tmp_path: Path) -> None:
    """Its decompressor has no limit: a kilobyte could become gigabytes at one call."""
    buffer = io.BytesIO(make_zip(two_classes()))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_BZIP2) as made:
        made.writestr("cat/3.png", image())
    assert reasons(load(buffer.getvalue(), tmp_path)) == {"cat/3.png": "compression method 12 is not supported"}


# ---------------------------------------------------------------- archives that are refused


@pytest.mark.parametrize("kind", KINDS)
def test_29_a_bomb_is_refused_before_it_expands(kind: str, tmp_path: Path) -> None:
    content = make(kind, [*two_classes(), ("cat/bomb.png", bytes(30_000_000))])
    if kind == "tar":
        assert reasons(load(content, tmp_path)) == {"cat/bomb.png": "not an image (unknown format)"}
    else:
        assert "as a zip bomb does" in refusal(content, tmp_path)


def test_29_one_member_that_expands_too_far_is_listed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    content = make_zip([*two_classes(), ("cat/bomb.png", bytes(5_000_000)), ("cat/noise", noise)])
    assert reasons(load(content, tmp_path))["cat/bomb.png"] == "expands more than 200-fold, as in a zip bomb"


@pytest.mark.parametrize("kind", KINDS)
def test_29_an_archive_over_the_limit_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 500)
    assert "expands to more than 500 bytes" in refusal(make(kind, two_classes()), tmp_path)


def test_a_zip_member_that_lies_about_its_size_is_not_unpacked(tmp_path: Path) -> None:
    """It announces 500,000 bytes and expands to 60 MB, packed well enough to pass for an image."""
    content = bytearray(make_zip([*two_classes(), ("cat/bomb.png", bytes(60_000_000))]))
    for signature, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = content.rindex(signature) if signature == b"PK\1\2" else content.index(b"cat/bomb.png") - 30
        content[at + place : at + place + 4] = (500_000).to_bytes(4, "little")
    images, peak = traced_peak(lambda: load(bytes(content), tmp_path))
    assert "damaged in the archive" in reasons(images)["cat/bomb.png"]
    assert peak < 20_000_000


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar.bz2"])
def test_a_packed_tar_is_checked_while_it_is_unpacked(kind: str, tmp_path: Path) -> None:
    content = make(kind, [*two_classes(), ("cat/bomb.png", bytes(60_000_000))])
    message, peak = traced_peak(lambda: refusal(content, tmp_path))
    assert "as a zip bomb does" in message
    assert peak < 45_000_000


def traced_peak(work: Callable[[], T]) -> tuple[T, int]:
    """Return what the work returns, and the most memory of Python that it took, in bytes."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_30_a_volume_of_a_zip_is_refused_in_words(tmp_path: Path) -> None:
    content = bytearray(make_zip(two_classes()))
    end = content.rindex(b"PK\5\6")
    content[end + 4 : end + 8] = b"\1\0\0\0"
    assert "one of several volumes of a zip" in refusal(bytes(content), tmp_path)
    assert "one of several volumes of a zip" in refusal(b"PK\7\10" + bytes(content), tmp_path)
    (tmp_path / "zip64.zip").write_bytes(zip64_of_two_volumes())
    assert is_zip(tmp_path / "zip64.zip")


def zip64_of_two_volumes() -> bytes:
    locator = struct.pack("<4sLQL", b"PK\6\7", 1, 0, 2)
    end = struct.pack("<4s4H2LH", b"PK\5\6", *(0xFFFF,) * 4, 2**32 - 1, 2**32 - 1, 0)
    return b"PK\7\10" + bytes(60) + locator + end


def overlapping(quoted: bool) -> bytes:
    """Return a zip whose members share bytes: all entries point to one member, or each quotes all that follow it."""
    whole = bytearray(make_zip([(f"cat/{index}.png", b"x" * 64) for index in range(5)], method=zipfile.ZIP_STORED))
    directory = whole.index(b"PK\1\2")
    at, first_size = directory, directory
    while whole[at : at + 4] == b"PK\1\2":
        start = struct.unpack_from("<I", whole, at + 42)[0]
        if quoted:
            size = first_size - start - 30 - len("cat/0.png")
            struct.pack_into("<II", whole, at + 20, size, size)
        else:
            struct.pack_into("<I", whole, at + 42, 0)
        at += 46 + len("cat/0.png")
    return bytes(whole)


@pytest.mark.parametrize("quoted", [False, True])
def test_29_overlapping_members_are_refused(quoted: bool, tmp_path: Path) -> None:
    assert "overlaps another" in refusal(overlapping(quoted), tmp_path)


def test_30_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(make_zip(two_classes()))
    content[content.index(b"PK\1\2") + 8] |= 1
    assert "encrypted; unpack it with its password" in refusal(bytes(content), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_30_a_cut_archive_gives_no_partial_data_set(kind: str, tmp_path: Path) -> None:
    whole = make(kind, [(f"{label}/{index}.png", image(index)) for label in ("a", "b") for index in range(20)])
    end = len(whole) if kind != "tar" else len(whole.rstrip(b"\0")) + 200
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        message = refusal(whole[: int(share * end)], tmp_path)
        assert "no image of it is used" in message, share


def test_30_a_tar_cut_between_members_is_refused(tmp_path: Path) -> None:
    whole = make_tar(two_classes())
    second = whole.index(b"dog/1.png")
    assert "end marker is missing" in refusal(whole[:second], tmp_path)
    damaged = whole[:second] + b"X" + whole[second + 1 :]
    assert "damaged" in refusal(damaged, tmp_path)


@pytest.mark.parametrize("size", [10**6, 8**11 - 1, -512, 2**63 - 1])
def test_30_a_tar_member_that_lies_about_its_size_is_refused(size: int, tmp_path: Path) -> None:
    header = regular("cat/3.png", 0)
    header.size = size
    block = header.tobuf(tarfile.GNU_FORMAT)
    whole = make_tar(two_classes()).rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    start = time.perf_counter()
    assert "damaged" in refusal(whole + block + bytes(1024), tmp_path)
    assert time.perf_counter() - start < 5


def test_30_nested_headers_end(tmp_path: Path) -> None:
    """A chain of long-name headers makes tarfile recurse; a header of a gigabyte would be read at once."""
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = tarfile.GNUTYPE_LONGNAME, 1
    chain = (link.tobuf(tarfile.GNU_FORMAT) + b"x" + bytes(511)) * 3000
    assert "damaged" in refusal(chain + bytes(1024), tmp_path)
    link.size = 2**30
    assert "header of 1073741824 bytes" in refusal(link.tobuf(tarfile.GNU_FORMAT) + bytes(4096), tmp_path)


def test_30_a_damaged_central_directory_is_refused(tmp_path: Path) -> None:
    whole = make_zip(two_classes())
    directory = whole.index(b"PK\1\2")
    end = whole.index(b"PK\5\6")
    for start, stop in ((directory, directory + 4), (end, end + 4), (end + 12, end + 16), (directory + 20, end)):
        damaged = whole[:start] + b"\xee" * (stop - start) + whole[stop:]
        assert "no image of it is used" in refusal(damaged, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_30_too_many_members_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 100)
    members = [(f"cat/{index}", b"") for index in range(101)]
    assert "more than 100 members" in refusal(make(kind, members), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a zip nor a tar"),
        (b"hello", "neither a zip nor a tar"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive"),
        (b"Rar!\x1a\x07" + bytes(100), "a RAR archive"),
        (gzip.compress(b"hello" * 200), "damaged"),
        (make_zip([]), "no usable image"),
    ],
)
def test_other_files_are_refused_with_a_way_out(content: bytes, message: str, tmp_path: Path) -> None:
    assert message in refusal(content, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_damaged_archives_give_a_set_or_one_error(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = make(kind, two_classes())
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        try:
            load(bytes(damaged), tmp_path, drop_empty=True)
        except DataError:
            refused += 1
    assert refused > 5


# ---------------------------------------------------------------- real archives


def test_the_reference_photos(reference: Path) -> None:
    """2,400 photos, two of them empty files, and a Thumbs.db in both classes."""
    images = load_images(DataConfig(source=str(reference / "cats-and-dogs-2400.zip"), image_size=32))
    assert images.class_names == ("Cat", "Dog")
    assert images.images.shape == (2398, 32, 32, 3)
    assert reasons(images) == dict.fromkeys(["PetImages/Cat/666.jpg", "PetImages/Dog/11702.jpg"], "empty file")
    assert images.ignored == 2
