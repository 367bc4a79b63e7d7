"""Ctrl-C and SIGTERM: where a stop takes effect, and the line that says how to go on.

On the command line both raise KeyboardInterrupt at the next instruction of Python. The training loop waits for a point
at which its state can be saved (`stop_on_signals`). What still runs GRACE_SECONDS later is ended where it is, for
example inside a call of a library that takes minutes: files are whole at any moment, so only time is lost.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from convscope.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 4.0
"""Time between a stop on the command line and the end of the process, whatever it does."""
REPEAT_SECONDS = 0.1
"""Signals this close together are one stop: `timeout` sends its signal to a process and to its group."""

_line = "convscope was stopped; nothing is half-written: run it again"
"""What a stop says at this moment."""
_said = False


@contextmanager
def interruptible(line: str) -> Iterator[None]:
    """Make a stop end in an Interrupted with this line; SIGTERM stops like Ctrl-C unless it has a handler.

    Raises:
        Interrupted: a stop was asked for; one from within keeps its own message.
    """
    global _line
    before, _line = _line, line
    takes_over = _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if takes_over:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as stop:
        before = _line  # also where the way out of here takes too long
        if isinstance(stop, Interrupted):
            raise
        raise Interrupted(line) from None
    finally:
        _line = before
        if takes_over:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a stop was asked for, which is up to the caller now; a second one raises.

    Outside the main thread no handler can be set, and the function always returns False.

    Raises:
        KeyboardInterrupt: at the end, if a stop was asked for and nothing else was raised.
    """
    requested = threading.Event()
    if not _in_main_thread():
        yield requested.is_set
        return
    former = _handle_signals(requested.set)
    try:
        yield requested.is_set
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if requested.is_set():
        raise KeyboardInterrupt


@contextmanager
def stops_in_time() -> Iterator[None]:
    """Honour stops for the rest of this process: the first raises KeyboardInterrupt, a second ends the process."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(receiver, sender), name="stops", daemon=True).start()
    _handle_signals(_raise)
    try:
        yield
    except KeyboardInterrupt:
        say(_line)
        sys.exit(Interrupted.exit_code)


@contextmanager
def beyond_ctrl_c() -> Iterator[None]:
    """Start processes in here that Ctrl-C in a terminal does not reach, which goes to all of its group.

    They inherit a mask, and so no import of theirs is broken off with a traceback; they are the caller's to end.
    """
    from multiprocessing import resource_tracker

    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing's; starting it would take the mask away
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def say(line: str) -> None:
    """Print the line of a stop on stderr."""
    global _said
    _said = True
    sys.stderr.write(f"{_printable(line)}\n")
    sys.stderr.flush()


def _watch(receiver: socket.socket, sender: socket.socket) -> None:
    """Wait for a signal, which arrives here whatever the main thread does; give it its time, and end the process.

    Args:
        sender: written to by the interpreter; held so that it stays open.
    """
    receiver.recv(1)
    time.sleep(REPEAT_SECONDS)
    receiver.setblocking(False)
    with suppress(BlockingIOError):
        receiver.recv(4096)  # repeats
    receiver.settimeout(GRACE_SECONDS - REPEAT_SECONDS)
    with suppress(TimeoutError):
        receiver.recv(1)
    _end_now()


def _end_now() -> None:
    """End this process and those it started."""
    import psutil  # imported late, so that `predict` starts fast

    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    if not _said:
        cursor = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""  # which a progress bar hides
        with suppress(OSError):
            os.write(2, f"{cursor}{_printable(_line)}\n".encode(errors="replace"))
    os._exit(Interrupted.exit_code)


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _handle_signals(first: Callable[[], object]) -> dict[signal.Signals, Any]:
    """Set a handler that calls `first` at the first stop and raises at later ones; return the handlers before."""
    last = -float("inf")
    stops = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last, stops
        now = time.monotonic()
        if now - last > REPEAT_SECONDS:
            last, stops = now, stops + 1
            (first if stops == 1 else _raise)()

    return {number: signal.signal(number, handle) for number in SIGNALS}


def _raise() -> None:
    raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
