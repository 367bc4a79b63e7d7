"""Five hundred hostile files, and a thousand images of which a hundred are corrupt: each gets a verdict.

The thousand mutations of whole images are in test_decode.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from convscope.api.check import check
from convscope.config import DataConfig
from convscope.data.decode.decode import Decoded, decode_many, map_images
from convscope.data.decode.files import Entry
from convscope.data.decode.resize import Resizing
from convscope.data.health import ImageStats, file_stats
from convscope.data.load import load_images
from convscope.results.prediction import Skipped
from tests.support import chunk, encoded, exif_block, huge_header, make_tree, png, smooth

LIMIT = 1_000_000
PER_KIND = 20
Make = Callable[[np.random.Generator], bytes]


def noise(rng: np.random.Generator, most: int = 4000) -> bytes:
    return rng.bytes(int(rng.integers(1, most)))


def whole(rng: np.random.Generator, kind: str = "JPEG", **options: object) -> bytes:
    height, width = rng.integers(8, 60, 2)
    return encoded(smooth(int(height), int(width), int(rng.integers(1000))), kind, **options)


def cut(rng: np.random.Generator, kind: str) -> bytes:
    content = whole(rng, kind)
    return content[: int(rng.integers(2, len(content) * 9 // 10))]


def spliced(rng: np.random.Generator) -> bytes:
    """Return an image with a piece of another one in its middle."""
    one, other = whole(rng), whole(rng, "PNG")
    at = int(rng.integers(20, len(one)))
    return one[:at] + other[: int(rng.integers(len(other)))] + one[at:]


def text_bomb(rng: np.random.Generator) -> bytes:
    kind, head = [(b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")][rng.integers(3)]
    return png(2, 2, 8, 0, bytes(6), before=chunk(kind, head + zlib.compress(bytes(20_000_000), 1)))


def lying_size(rng: np.random.Generator) -> bytes:
    """Return a PNG whose header tells of other rows than there are."""
    width, height = rng.integers(1, 900, 2)
    return png(int(width), int(height), 8, 2, noise(rng))


def endless_scans(rng: np.random.Generator) -> bytes:
    content = encoded(np.full((900, 900), int(rng.integers(255)), np.uint8), "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + scan * 4000 + content[-2:]


def animation(rng: np.random.Generator) -> bytes:
    frames = [Image.new("RGB", (20, 20), tuple(rng.integers(0, 256, 3).tolist())) for _ in range(30)]
    content = encoded(frames[0], ("GIF", "PNG", "WEBP")[rng.integers(3)], save_all=True, append_images=frames[1:])
    return content[: int(rng.integers(len(content) // 2, len(content)))]


def riff(rng: np.random.Generator) -> bytes:
    return (
        b"RIFF"
        + struct.pack("<I", int(rng.integers(2**32)))
        + b"WEBP"
        + (b"VP8 ", b"VP8L", b"VP8X")[rng.integers(3)]
        + noise(rng)
    )


KINDS: dict[str, Make] = {
    "empty": lambda rng: b"",
    "text": lambda rng: b"dear diary " * int(rng.integers(1, 300)),
    "noise": noise,
    "zeros": lambda rng: bytes(int(rng.integers(1, 10_000))),
    "jpeg-magic": lambda rng: b"\xff\xd8\xff" + noise(rng),
    "png-magic": lambda rng: b"\x89PNG\r\n\x1a\n" + noise(rng),
    "gif-magic": lambda rng: b"GIF89a" + noise(rng),
    "bmp-magic": lambda rng: b"BM" + noise(rng),
    "webp-magic": riff,
    "other-formats": lambda rng: (
        (b"II*\0", b"8BPS\0\1", b"%!PS-Adobe-3.0 ", b"\0\0\0\x18ftypheic", b"<svg>")[rng.integers(5)] + noise(rng)
    ),
    "archives": lambda rng: (b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!")[rng.integers(4)] + noise(rng),
    "cut-jpeg": lambda rng: cut(rng, "JPEG"),
    "cut-png": lambda rng: cut(rng, "PNG"),
    "cut-gif": lambda rng: cut(rng, "GIF"),
    "cut-bmp": lambda rng: cut(rng, "BMP"),
    "cut-webp": lambda rng: cut(rng, "WEBP"),
    "huge-header": lambda rng: huge_header(("JPEG", "PNG", "GIF", "BMP", "WEBP")[rng.integers(5)]),
    "text-bomb": text_bomb,
    "lying-size": lying_size,
    "endless-scans": endless_scans,
    "stalling": lambda rng: b"\xff\xd8\xff" + b"\0" * int(rng.integers(50_000, 100_000)),
    "broken-exif": lambda rng: whole(
        rng, exif=exif_block((int(rng.integers(2**16)), 3, 1, 6), count=int(rng.integers(99)))
    ),
    "spliced": spliced,
    "animation": animation,
    "odd-shape": lambda rng: encoded(np.zeros((1, int(rng.integers(1, 5000))), np.uint8), "PNG"),
}


def hostile_entries() -> list[Entry]:
    rng = np.random.default_rng(500)
    entries = []
    for number in range(PER_KIND):
        for name, make in KINDS.items():
            content = make(rng)
            suffix = (".jpg", ".png", ".gif", "", ".JPEG")[number % 5]
            entries.append(Entry(f"{name}/{number}{suffix}", len(content), lambda content=content: content))
    return entries


@pytest.mark.slow
def test_five_hundred_hostile_files_all_get_one_verdict_and_leave_no_memory_behind() -> None:
    entries = hostile_entries()
    assert len(entries) == 500
    seen: list[list[str]] = []
    resident = []
    for _ in range(3):
        verdicts = list(decode_many(entries, Resizing(image_size=16, gray=False), max_pixels=LIMIT))
        assert [name for name, _ in verdicts] == [entry.name for entry in entries]
        for name, verdict in verdicts:
            if isinstance(verdict, Skipped):
                assert verdict.reason.isprintable(), name
                assert verdict.remedy
                assert verdict.file == name
            else:
                assert verdict.image.shape == (16, 16, 3)
        seen.append([item.reason if isinstance(item, Skipped) else "accepted" for _, item in verdicts])
        resident.append(psutil.Process().memory_info().rss)
    assert seen[0] == seen[1] == seen[2]
    assert resident[2] - resident[0] < 20e6
    accepted = {
        entry.name.split("/")[0] for entry, verdict in zip(entries, seen[0], strict=True) if verdict == "accepted"
    }
    assert {"broken-exif", "odd-shape"} <= accepted
    refused = {
        "empty",
        "text",
        "noise",
        "zeros",
        "other-formats",
        "archives",
        "huge-header",
        "endless-scans",
        "stalling",
    }
    assert not refused & accepted
    found = map_images(entries, file_stats, max_pixels=LIMIT)
    checked = [item.reason if isinstance(item, Skipped) else "accepted" for _, item in found]
    assert checked == seen[0]  # the same verdict in training and in a check of the data


@pytest.mark.slow
def test_a_thousand_images_a_hundred_of_them_corrupt(tmp_path: Path) -> None:
    rng = np.random.default_rng(1000)
    names = [f"{'cat' if i % 2 else 'dog'}/{i}.jpg" for i in range(1000)]
    corrupt = set(rng.permutation(names)[:100].tolist())
    harm = [b"", b"text", b"\xff\xd8\xff", None, None]
    files = {}
    for number, name in enumerate(names):
        content = encoded(smooth(24, 32, number), "JPEG")
        hurt = harm[number % len(harm)]
        files[name] = content if name not in corrupt else content[: len(content) * 2 // 3] if hurt is None else hurt
    root = make_tree(tmp_path / "pets", files)
    images = load_images(DataConfig(source=str(root), image_size=16))
    assert {item.file for item in images.skipped} == corrupt  # all named, none refused without cause
    assert set(images.ids) == set(names) - corrupt
    health = check(root)
    assert (health.found, len(health.images), len(health.skipped)) == (1000, 900, 100)
    assert health.skipped == images.skipped


def test_training_and_health_check_read_intact_images_alike() -> None:
    rng = np.random.default_rng(3)
    content = [whole(rng, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")]
    entries = [Entry(f"{i}", len(each), lambda each=each: each) for i, each in enumerate(content)]
    decoded = [item for _, item in decode_many(entries, Resizing(image_size=None, gray=False), max_pixels=LIMIT)]
    checked = [item for _, item in map_images(entries, file_stats, max_pixels=LIMIT)]
    for one, other in zip(decoded, checked, strict=True):
        assert isinstance(one, Decoded)
        assert isinstance(other, ImageStats)
        assert (one.source_size, one.format, one.mode) == ((other.height, other.width), other.format, other.mode)
