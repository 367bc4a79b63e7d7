"""Large images wait for one another: threads decode as many at once as the memory for their pixels allows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PIXELS_AT_ONCE = 128_000_000
"""Pixels of all images in work: 400 MB as RGB. An image with more is decoded alone."""
FREE_PIXELS = 4_000_000
"""Smaller images are not counted."""

_changed = threading.Condition()
_mine = threading.local()
_in_work = 0


@contextmanager
def one_image() -> Iterator[None]:
    """Hold what `wait_for_turn` gives to the image that this thread decodes and uses inside the `with` block."""
    global _in_work
    if getattr(_mine, "pixels", None) is not None:  # within another block, which holds what there is
        yield
        return
    _mine.pixels = 0
    try:
        yield
    finally:
        held, _mine.pixels = _mine.pixels, None
        if held:
            with _changed:
                _in_work -= held
                _changed.notify_all()


def wait_for_turn(pixels: int) -> None:
    """Wait until an image of this many pixels may be decoded; outside `one_image`, and the second time, at once."""
    global _in_work
    if pixels <= FREE_PIXELS or getattr(_mine, "pixels", None) != 0:
        return
    with _changed:
        _changed.wait_for(lambda: _in_work == 0 or _in_work + pixels <= PIXELS_AT_ONCE)
        _in_work += pixels
        _mine.pixels = pixels
