"""Untrusted images, many at a time: resized, read in parallel, shown by name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from convscope.data.decode.decode import Decoded, decode_many
from convscope.data.decode.files import Entry
from convscope.data.decode.resize import Resizing, resize_image
from convscope.data.decode.turns import PIXELS_AT_ONCE, one_image, wait_for_turn
from convscope.data.names import is_ignored, printable
from convscope.results.prediction import Skipped
from tests.support import LIMIT, close, decode, encoded, smooth

# ---------------------------------------------------------------- to size


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (3, 2), (64, 64)])
@pytest.mark.parametrize("size", [None, 1, 8, 64])
@pytest.mark.parametrize("gray", [False, True])
def test_14_images_of_any_shape_fit(height: int, width: int, size: int | None, gray: bool) -> None:
    image = decode(encoded(smooth(height, width), "PNG"), "a.png").image
    fitted = resize_image(image, Resizing(image_size=size, gray=gray))
    side = size or min(height, width)
    assert fitted.shape == (side, side, 1 if gray else 3)
    assert resize_image(fitted, Resizing(image_size=side, gray=gray)).tobytes() == fitted.tobytes()


def test_the_centre_is_cut_out_exactly() -> None:
    wide = smooth(32, 57)
    assert np.array_equal(resize_image(wide, Resizing(image_size=32, gray=False)), wide[:, 12:44])
    assert np.array_equal(resize_image(wide, Resizing(image_size=None, gray=False)), wide[:, 12:44])
    tall = smooth(57, 32)
    assert np.array_equal(resize_image(tall, Resizing(image_size=32, gray=False)), tall[12:44])


def test_reducing_by_a_whole_number_is_a_triangle_filter() -> None:
    """Antialiased bilinear: reduced by k, each pixel is a triangle of half-width k over the source pixels."""
    image = smooth(40, 40)[:, :, :1]
    k, size = 4, 10
    class_means = (np.arange(size) + 0.5) * k
    weights = np.maximum(0, 1 - np.abs(np.arange(40) + 0.5 - class_means[:, None]) / k)
    weights /= weights.sum(1, keepdims=True)
    expected = weights @ image[:, :, 0].astype(float) @ weights.T
    assert close(resize_image(image, Resizing(image_size=size, gray=True))[:, :, 0], expected, 1)


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_the_edge_is_cut_away_and_the_filter_is_the_one_asked_for(resize: Literal["crop", "squash"]) -> None:
    image = smooth(40, 80)
    fit = Resizing(image_size=16, gray=False, resize=resize, crop_fraction=0.75, interpolation="bicubic")
    box = (25, 5, 55, 35) if resize == "crop" else (10, 5, 70, 35)
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC, box=box)
    assert np.array_equal(resize_image(image, fit), np.array(expected))


def test_gray_is_the_luma_of_itu_r_601() -> None:
    image = smooth()
    expected = image.astype(float) @ np.array([0.299, 0.587, 0.114])
    assert close(resize_image(image, Resizing(image_size=None, gray=True))[:, :, 0], expected[:, 10:70], 1)
    assert np.array_equal(
        resize_image(image[:60, :60, :1], Resizing(image_size=60, gray=False))[:, :, 2], image[:60, :60, 0]
    )


# ---------------------------------------------------------------- many


def test_order_bound_and_size_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results come in order, reading does not run far ahead, and small squares keep their size when none is given."""
    monkeypatch.setattr("convscope.data.decode.files.available_processors", lambda: 2)
    content = {size: encoded(smooth(*size), "PNG") for size in ((32, 32), (96, 96), (97, 97), (40, 50))}
    sizes = [size for _ in range(200) for size in content]
    reached = 0

    def entries() -> Iterator[Entry]:
        nonlocal reached
        for reached, size in enumerate(sizes):
            yield Entry(f"{reached}.png", len(content[size]), lambda size=size: content[size])

    for index, (name, found) in enumerate(
        decode_many(entries(), Resizing(image_size=None, gray=True), max_pixels=LIMIT)
    ):
        assert name == f"{index}.png"
        assert isinstance(found, Decoded)
        assert found.source_size == sizes[index]
        expected = sizes[index][0] if sizes[index] in ((32, 32), (96, 96)) else 64
        assert found.image.shape == (expected, expected, 1)
        assert reached - index < 64 * 8
    assert index == len(sizes) - 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_what_cannot_be_read_is_listed() -> None:
    def fail(error: Exception) -> Callable[[], bytes]:
        def read() -> bytes:
            raise error

        return read

    errors = [PermissionError(13, "Permission denied"), FileNotFoundError(2, "gone"), OSError(5, "Input/output error")]
    entries = [Entry("a.jpg", 1, fail(error)) for error in (*errors, MemoryError())]
    entries.append(Entry("b.jpg", 2**40, fail(AssertionError("read although far too large"))))
    found = [item for _, item in decode_many(entries, Resizing(image_size=8, gray=False), max_pixels=LIMIT)]
    reasons = [item.reason for item in found if isinstance(item, Skipped)]
    assert reasons[:2] == ["permission denied", "not there any more"]
    assert reasons[2:4] == ["cannot be read (Input/output error)", "cannot be read (MemoryError)"]
    assert reasons[4].startswith("too many bytes (1099511627776 > ")


def test_one_loader_gives_the_same_pixels_everywhere() -> None:
    content = encoded(smooth(), "JPEG")
    [(_, found)] = decode_many(
        [Entry("a.jpg", 1, lambda: content)], Resizing(image_size=17, gray=False), max_pixels=LIMIT
    )
    assert isinstance(found, Decoded)
    assert np.array_equal(found.image, resize_image(decode(content).image, Resizing(image_size=17, gray=False)))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.jpg", "a.jpg"),
        ("-rf ☂ 👩‍🚀 é.jpg", "-rf ☂ 👩‍🚀 é.jpg"),
        ("a\nb\r\x1b[31m.jpg", "a\\x0ab\\x0d\\x1b[31m.jpg"),
        (b"\xff\x80.jpg".decode(errors="surrogateescape"), "\\xff\\x80.jpg"),
        ("a\\x0ab", "a\\\\x0ab"),
        ("a\u2028b\u202egpj.exe\x85", "a\\u2028b\\u202egpj.exe\\u0085"),
        ("\ud800", "\\ud800"),
        ("x" * 255, "x" * 255),
    ],
)
def test_20_names_are_shown_on_one_line(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert printable(name).encode()
    assert len(printable(name).splitlines()) == 1


def test_20_different_names_stay_different() -> None:
    names = [chr(code) for code in range(0x3000) if chr(code) != "\\"] + ["\\x0a", "\\u0085", "\udc80", "\\\\x80"]
    assert len(set(map(printable, names))) == len(names)


def test_15_files_that_are_never_images() -> None:
    ignored = (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX", ".ipynb_checkpoints", "._1.jpg", "THUMBS.DB")
    assert all(map(is_ignored, ignored))
    assert not any(map(is_ignored, ("thumbs", "a.jpg", "database", "-a", "_x")))


def test_large_images_wait_for_one_another() -> None:
    order = []

    def decode_large(pixels: int) -> None:
        with one_image():
            wait_for_turn(pixels)
            wait_for_turn(pixels)  # opened again, to find out whether it is cut
            order.append(pixels)

    def join(pixels: int, timeout: float | None = None) -> threading.Thread:
        thread = threading.Thread(target=decode_large, args=(pixels,))
        thread.start()
        thread.join(timeout)
        return thread

    wait_for_turn(PIXELS_AT_ONCE)  # holds nothing outside of `one_image`
    with one_image():
        wait_for_turn(PIXELS_AT_ONCE * 2)  # alone, whatever its size
        assert not join(1000).is_alive()
        waiting = join(100_000_000, timeout=0.05)
        assert order == [1000]
    waiting.join()
    assert order == [1000, 100_000_000]
    with one_image():
        wait_for_turn(PIXELS_AT_ONCE // 2)
        assert not join(PIXELS_AT_ONCE // 2).is_alive()
        with pytest.raises(RuntimeError), one_image():
            raise RuntimeError
    assert not join(PIXELS_AT_ONCE).is_alive()
