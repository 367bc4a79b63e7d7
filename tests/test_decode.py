"""Untrusted images, one at a time; the numbers in the ids are the cases of the reliability list."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from convscope.data.decode import pillow as decoding
from convscope.data.decode.decode import Decoded, decode_many, decode_rgb
from convscope.data.decode.files import Entry
from convscope.data.decode.resize import Resizing
from convscope.results.prediction import Skipped
from tests.support import LIMIT, chunk, close, decode, encoded, exif_block, huge_header, png, smooth

PNG = encoded(smooth(), "PNG")


def refuse(content: bytes, name: str = "a.jpg", *, max_pixels: int = LIMIT, allow_truncated: bool = False) -> Skipped:
    found = decode_rgb(content, name, max_pixels=max_pixels, allow_truncated=allow_truncated)
    assert isinstance(found, Skipped)
    assert found.remedy
    return found


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "empty file", id="1-zero-bytes"),
        pytest.param(b"dear diary,\ntoday", "not an image (looks like text)", id="2-text"),
        pytest.param("große Bäume\n".encode() * 90, "not an image (looks like text)", id="2-utf8"),
        pytest.param("caf\xe9 au lait".encode("latin-1"), "not an image (looks like text)", id="2-latin1"),
        pytest.param(b"BMW and other cars", "not an image (looks like text)", id="2-begins-like-a-bmp"),
        pytest.param(b"\xff\xfeh\0i\0", "not an image (looks like text)", id="2-utf16"),
        pytest.param(bytes(range(200)), "not an image (unknown format)", id="2-binary"),
        pytest.param(b"\xff\xd8", "truncated", id="3-two-bytes"),
        pytest.param(
            b"\0\0\0\x18ftypheic\0\0\0\0", "format not enabled; convert with heif-convert (HEIC)", id="13-heic"
        ),
        pytest.param(b"\0\0\0\x18ftypmif1\0\0\0\0avif", "format not enabled; convert with", id="13-mif1"),
        pytest.param(b"\0\0\0\x18ftypavif\0\0\0\0", "format not enabled; convert with avifdec (AVIF)", id="13-avif"),
        pytest.param(b"<?xml version='1.0'?><!-- x --><svg/>", "format not enabled; convert with rsvg", id="13-svg"),
        pytest.param(b"8BPS\0\1" + bytes(20), "format not enabled; convert with magick (PSD)", id="13-psd"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "format not enabled; convert with gs (EPS)", id="13-eps"),
        pytest.param(b"II*\0\x08\0\0\0", "format not enabled; convert with magick (TIFF)", id="13-tiff-intel"),
        pytest.param(b"MM\0*\0\0\0\x08", "format not enabled; convert with magick (TIFF)", id="13-tiff-motorola"),
        pytest.param(b"PK\3\4" + bytes(30), "nested archive", id="30-nested-zip"),
        pytest.param(b"\0\0\0\x18ftypmp42\0\0\0\0", "a video (MP4)", id="mp4"),
        pytest.param(b"\0\0\0\x14ftypqt  \0\0\0\0", "a video (QuickTime)", id="quicktime"),
        pytest.param(b"RIFF\x24\0\0\0AVI LIST", "a video (AVI)", id="avi"),
        pytest.param(b"\x1a\x45\xdf\xa3\x9fB\x86", "a video (Matroska or WebM)", id="webm"),
        pytest.param(b"\0\0\1\xba\x44\0\4", "a video (MPEG)", id="mpeg"),
        pytest.param(PNG.replace(b"\r\n", b"\n"), "spoiled by a transfer as text", id="unix-lines"),
        pytest.param(PNG.replace(b"\n", b"\r\n"), "spoiled by a transfer as text", id="windows-lines"),
        pytest.param(PNG.replace(b"\r\n", b"\r"), "spoiled by a transfer as text", id="mac-lines"),
        pytest.param(bytes(c & 127 for c in PNG), "spoiled by a transfer as text", id="seven-bits"),
        pytest.param(PNG.decode("latin-1").encode(), "spoiled by a transfer as text", id="latin1-to-utf8"),
        pytest.param(PNG.decode(errors="replace").encode(), "spoiled by a transfer as text", id="not-utf8"),
    ],
)
def test_files_that_are_no_images(content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    assert refuse(content).reason.startswith(reason)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_3_a_cut_jpeg_is_truncated_at_every_length(progressive: bool, subsampling: int) -> None:
    whole = encoded(smooth(), "JPEG", progressive=progressive, subsampling=subsampling)
    assert decode(whole).notes == ()
    for share in (0.1, 0.5, 0.9, 0.99):
        assert refuse(whole[: int(share * len(whole))]).reason == "truncated", share
    for length in range(2, len(whole), 7):
        assert refuse(whole[:length]).reason == "truncated", length


def test_3_a_cut_jpeg_with_an_end_marker_is_truncated_too() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    for image in (noise, smooth()):
        whole = encoded(image, "JPEG")
        assert refuse(whole[: len(whole) // 2] + b"\xff\xd9").reason == "truncated"


def test_3_a_gray_corner_alone_is_no_reason_to_refuse() -> None:
    image = smooth()
    image[16:, 16:] = 128
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        whole = encoded(image, "JPEG", subsampling=0, **options)
        assert np.all(decode(whole).image[-1, -1] == 128)
        assert decode(whole + b"appended \xff\xd9").notes == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_3_a_cut_image_is_accepted_and_marked_when_asked(kind: str) -> None:
    whole = encoded(smooth(), kind, **({"subsampling": 0} if kind == "JPEG" else {}))
    cut = whole[: len(whole) * 2 // 3]
    name = f"a.{kind.lower()}"
    assert refuse(cut, name).reason == "truncated"
    found = decode(cut, name, allow_truncated=True)
    assert found.notes == ("truncated: missing pixels are filled in",)
    first = -1 if kind == "BMP" else 0  # the row that comes first in the file
    assert np.array_equal(found.image[first], decode(whole, name).image[first])
    assert decode(whole, name, allow_truncated=True).notes == ()


def test_4_broken_pngs_get_one_verdict() -> None:
    whole = encoded(smooth(), "PNG")
    start = whole.index(b"IDAT") + 4
    wrong_sum = whole[: start - 12] + bytes([whole[start - 12] ^ 1]) + whole[start - 11 :]
    flipped = whole[: start + 40] + bytes([whole[start + 40] ^ 0xFF]) + whole[start + 41 :]
    assert refuse(whole[: start + 500], "a.png").reason == "truncated"
    assert "PNG" in refuse(wrong_sum, "a.png").reason
    assert "PNG" in refuse(flipped, "a.png").reason
    no_end = whole[:-12]
    assert np.array_equal(decode(no_end, "a.png").image, smooth())  # every pixel is there


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_11_a_huge_header_is_refused_at_once(kind: str) -> None:
    content = huge_header(kind)
    with memory_rise() as rise:
        start = time.perf_counter()
        skipped = refuse(content, f"a.{kind.lower()}")
        assert time.perf_counter() - start < 1
    pixels = 65535**2 if kind == "WEBP" else 60000**2
    assert skipped.reason == f"too many pixels ({pixels} > {LIMIT}); raise --max-pixels"
    assert rise() < 50e6


def test_11_the_limit_is_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(np.zeros((100, 100), np.uint8), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit, for the whole process
    assert decode(content, "a.png", max_pixels=10_000).image.shape == (100, 100, 3)
    assert refuse(content, "a.png", max_pixels=9_999).reason.startswith("too many pixels (10000 > 9999)")


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["zTXt", "iCCP", "iTXt", "raw"])
def test_12_a_png_with_megabytes_of_text_is_listed(kind: str, place: str) -> None:
    zeros = zlib.compress(bytes(50_000_000)) if kind != "raw" else bytes(50_000_000)
    data = {"zTXt": b"a\0\0", "iCCP": b"a\0\0", "iTXt": b"a\0\1\0\0\0", "raw": b"a\0"}[kind] + zeros
    bomb = chunk(b"tEXt" if kind == "raw" else kind.encode(), data)
    content = png(2, 2, 8, 0, bytes(6), **{place: bomb})
    with memory_rise() as rise:
        found = decode_rgb(content, "a.png", max_pixels=LIMIT)
    assert rise() < 100e6
    assert isinstance(found, Skipped)


@pytest.mark.parametrize("head", [b"\xff\xd8\xff", b"GIF89a\x08\0\x08\0\0\0\0!\xfe"])
def test_files_made_to_stall_the_reader_end_soon(head: bytes) -> None:
    filler = b"\1\1" if head.startswith(b"GIF") else b"\0\0"
    start = time.perf_counter()
    refuse(head + filler * 2_000_000)
    assert time.perf_counter() - start < 5


def test_a_jpeg_with_endless_scans_is_refused_before_they_are_read() -> None:
    whole = encoded(np.full((999, 1000), 9, np.uint8), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    start = time.perf_counter()
    assert refuse(whole[:-2] + scan * 4000 + whole[-2:]).reason == "too many scans for its size"
    assert time.perf_counter() - start < 1
    assert decode(whole[:-2] + scan * 10 + whole[-2:]).image.shape == (999, 1000, 3)


# ---------------------------------------------------------------- what is accepted, and how


def test_5_the_content_decides_and_the_name_is_noted() -> None:
    image = smooth()
    assert decode(encoded(image, "PNG"), "a.jpg").notes == ("extension does not match: PNG named .jpg",)
    assert decode(encoded(image, "GIF"), "a.jpg").notes == ("extension does not match: GIF named .jpg",)
    for name in ("a.png", "a.PNG", "a"):
        assert decode(encoded(image, "PNG"), name).notes == ()
    for name in ("a.JPG", "a.Jpeg"):  # case 18
        assert decode(encoded(image, "JPEG"), name).notes == ()


def test_6_cmyk_and_ycck_are_not_inverted() -> None:
    cyan, magenta, yellow, black = 200, 40, 90, 30
    expected = [(255 - ink) * (255 - black) / 255 for ink in (cyan, magenta, yellow)]
    cmyk = encoded(Image.new("CMYK", (32, 32), (cyan, magenta, yellow, black)), "JPEG", quality=95)
    assert close(decode(cmyk).image.mean((0, 1)), expected, 4)
    # YCCK by hand: Y, Cb, Cr of the inks as if they were red, green, blue, and black inverted (Adobe, transform 2)
    luma, blue, red = Image.new("RGB", (1, 1), (cyan, magenta, yellow)).convert("YCbCr").getpixel((0, 0))
    planes = (255 - luma, 255 - blue, 255 - red, black)  # Pillow inverts all four when it writes
    ycck = encoded(Image.new("CMYK", (32, 32), planes), "JPEG", quality=95)
    transform = ycck.index(b"Adobe") + 11
    ycck = ycck[:transform] + b"\2" + ycck[transform + 1 :]
    assert close(decode(ycck).image.mean((0, 1)), expected, 4)


def palette_with_transparency() -> bytes:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (2, 0, 4, 2))
    return encoded(image, "PNG", transparency=0)


@pytest.mark.parametrize(
    ("content", "left", "right"),
    [
        pytest.param(lambda: encoded(np.full((2, 4), 77, np.uint8), "PNG"), (77,) * 3, (77,) * 3, id="7-gray"),
        pytest.param(
            lambda: encoded(np.array([[[0, 0], [0, 128], [9, 255], [9, 255]]] * 2, np.uint8), "PNG"),
            (255,) * 3,
            (9,) * 3,
            id="7-gray-alpha",
        ),
        pytest.param(
            lambda: encoded(np.array([[[9, 8, 7, 0]] * 2 + [[100, 0, 200, 51]] * 2] * 2, np.uint8), "PNG"),
            (255,) * 3,
            (224, 204, 244),  # a fifth of the colour, four fifths of white
            id="7-rgba",
        ),
        pytest.param(palette_with_transparency, (255,) * 3, (200, 100, 50), id="7-palette-tRNS"),
        pytest.param(lambda: png(4, 1, 1, 0, b"\0\x30"), (0,) * 3, (255,) * 3, id="7-one-bit"),
        pytest.param(
            lambda: png(4, 1, 8, 0, b"\0\x05\x05\x06\x06", chunk(b"tRNS", b"\0\5")),
            (255,) * 3,
            (6,) * 3,
            id="7-gray-tRNS",
        ),
        pytest.param(
            lambda: png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 300, 65535 - 257), chunk(b"tRNS", b"\x01\x2c")),
            (255,) * 3,
            (254,) * 3,
            id="8-gray16-tRNS",
        ),
    ],
)
def test_transparency_lies_over_white(
    content: Callable[[], bytes], left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    image = decode(content(), "a.png").image
    assert tuple(image[0, 0].tolist()) == left
    assert close(image[0, -1], right, 1)


def test_8_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 256 * 16).astype(">u2").reshape(16, 256)
    gray = png(256, 16, 16, 0, b"".join(b"\0" + row.tobytes() for row in values))
    assert np.array_equal(decode(gray, "a.png").image[:, :, 0], np.round(values / 257).astype(np.uint8))
    colour = png(256, 16, 16, 2, b"".join(b"\0" + np.repeat(row, 3).tobytes() for row in values))
    assert close(decode(colour, "a.png").image[:, :, 1], values / 257, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_9_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (20, 30), (index, 255 - index, 7)) for index in range(40)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    found = decode(content, f"a.{kind.lower()}")
    assert found.notes == ("animated: first frame taken",)
    assert np.array_equal(found.image, np.asarray(frames[0]))
    cut = content[: len(content) * 9 // 10]
    if kind == "GIF":  # the first frame is whole, so the end of the file does not matter
        assert np.array_equal(decode(cut, "a.gif").image, found.image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_10_the_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(smooth(24, 40), kind, exif=exif.tobytes())
    found = decode(content, f"a.{kind.lower()}")
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(found.image, np.asarray(expected.convert("RGB")))
    assert found.notes == ()


BROKEN_EXIF = [
    pytest.param(exif_block((0x0112, 3, 1, 6), count=32), id="10-too-many-entries"),
    pytest.param(exif_block((0x0112, 3, 1, 6), (0x8769, 2, 154, 10)), id="10-pointer-of-wrong-type"),
    pytest.param(exif_block((0x0112, 3, 1, 6), (0x010F, 2, 500, 900)), id="10-value-outside"),
    pytest.param(exif_block((0x0112, 99, 1, 6)), id="10-unknown-type"),
    pytest.param(b"Exif\0\0II*\0\xff\xff\xff\xff", id="10-directory-outside"),
    pytest.param(b"Exif\0\0nonsense", id="10-no-header"),
    pytest.param(b"Exif\0\0", id="10-empty"),
]


@pytest.mark.parametrize("exif", BROKEN_EXIF)
def test_a_broken_exif_block_is_ignored_and_noted(exif: bytes) -> None:
    found = decode(encoded(smooth(24, 40), "JPEG", exif=exif))
    assert found.image.shape == (24, 40, 3)
    assert found.notes == ("EXIF broken: orientation ignored",)


def test_no_warning_of_pillow_escapes_from_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convscope.data.decode.files.available_processors", lambda: 4)
    content = encoded(smooth(24, 40), "JPEG", exif=exif_block((0x0112, 3, 1, 6), count=32))
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(content)).getexif()  # what would escape
    before = list(warnings.filters)
    entries = [Entry(f"{index}.jpg", len(content), lambda: content) for index in range(400)]
    for _, found in decode_many(entries, Resizing(image_size=8, gray=False), max_pixels=LIMIT):
        assert isinstance(found, Decoded)
    assert warnings.filters == before


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 0}, {"icc_profile": b"x"}]
)
def test_the_fast_path_for_small_jpegs_gives_the_same_pixels(mode: str, options: dict[str, object]) -> None:
    content = encoded(Image.fromarray(smooth(31, 45)).convert(mode), "JPEG", **options)
    short = decoding._load_tiny_jpeg(content, LIMIT)
    assert short is not None
    assert np.array_equal(np.asarray(short), np.asarray(Image.open(io.BytesIO(content))))


def test_a_thousand_damaged_images_all_get_a_verdict() -> None:
    rng = np.random.default_rng(0)
    wholes = [encoded(smooth(30, 40), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")]
    verdicts = {Decoded: 0, Skipped: 0}
    for index in range(1000):
        damaged = bytearray(wholes[index % len(wholes)])
        for _ in range(rng.integers(1, 6)):
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        if index % 3 == 0:
            del damaged[rng.integers(len(damaged)) :]
        found = decode_rgb(bytes(damaged), "a.jpg", max_pixels=LIMIT, allow_truncated=index % 2 == 0)
        verdicts[type(found)] += 1
        if isinstance(found, Skipped):
            assert found.reason.isprintable()
    assert min(verdicts.values()) > 100


# ---------------------------------------------------------------- memory


class memory_rise:  # noqa: N801
    """Measures by how many bytes the peak of resident memory rises inside the block (Linux)."""

    def __enter__(self) -> Callable[[], float]:
        if not Path("/proc/self/clear_refs").exists() or sys.platform != "linux":
            pytest.skip("peak memory can be reset on Linux only")
        Path("/proc/self/clear_refs").write_text("5")
        self.start = status("VmRSS")
        self.end = self.start
        return lambda: self.end - self.start

    def __exit__(self, *_: object) -> None:
        self.end = status("VmHWM")


def status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return float(line.split()[1]) * 1024
    raise AssertionError(key)
