"""Ctrl-C and SIGTERM during training: the first stops at the next safe point, the second ends immediately."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a stop was requested; restore the previous handlers at the end.

    Outside the main thread no handler can be set, and the function always returns False.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return
    former = {number: signal.getsignal(number) for number in _SIGNALS}

    def request(number: int, frame: FrameType | None) -> None:
        requested.set()
        for again in _SIGNALS:
            signal.signal(again, signal.SIG_DFL)

    for number in _SIGNALS:
        signal.signal(number, request)
    try:
        yield requested.is_set
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
