"""The errors convscope raises on purpose; each message names the value, what was expected and what to do.

ConvscopeError
├── UsageError              a name or an option that is not valid              exit 2
├── DataError               images or labels that cannot be read or used        exit 1
│   ├── NoLabels            images without a class
│   └── DownloadError       a file that could not be fetched whole
├── RunError                a run folder that cannot be written, read or used     exit 1
│   ├── RunLocked           another process is writing this run folder
│   ├── CheckpointError     no checkpoint of the run is whole
│   └── ResumeMismatch      the run was started with other data or another model
├── WeightsError            trained weights that are missing or cannot be used    exit 1
├── ExportError             a network that has no form without torch              exit 1
├── TrainingError           the run itself failed, for example a loss of NaN      exit 1
└── Interrupted             Ctrl-C or SIGTERM; says how to go on                  exit 130
"""

import shlex
import signal
from collections.abc import Iterable
from difflib import get_close_matches


class ConvscopeError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(ConvscopeError):
    """A name, option or combination of options that is not valid."""

    exit_code = 2


class DataError(ConvscopeError):
    """Images, labels or archives that cannot be read or used."""


class NoLabels(DataError):
    """Images of which none has a class."""


class DownloadError(DataError):
    """A file that could not be fetched whole."""


class RunError(ConvscopeError):
    """A run folder that cannot be written, read or used."""


class RunLocked(RunError):
    """Another process is writing this run folder."""


class CheckpointError(RunError):
    """No checkpoint of the run is whole."""


class ResumeMismatch(RunError):
    """The run was started with other data, other classes or another model."""


class WeightsError(ConvscopeError):
    """Trained weights that are missing, or that do not fit the network."""


class ExportError(ConvscopeError):
    """A network that cannot be written as a file for another program."""


class TrainingError(ConvscopeError):
    """Training cannot go on, for example because the loss is not a number."""


class Interrupted(ConvscopeError):
    """Ctrl-C or SIGTERM; the message says how to go on."""

    exit_code = 130


def command(*words: object) -> str:
    """Return a command line of convscope to be typed, quoted for a POSIX shell."""
    return shlex.join(["convscope", *map(str, words)])


def describe_exit(code: int, printed: str = "") -> str:
    """Return how a process ended: by which signal, or with which exit code and last printed line.

    A process that a signal ends cannot say why, so what it printed last is about something else.

    Example:
        >>> describe_exit(-11), describe_exit(1, "Traceback ...\\nValueError: no")
        ('was killed by SIGSEGV', 'ended with exit code 1: ValueError: no')
    """
    if code < 0:
        names = {member.value: member.name for member in signal.Signals}
        return f"was killed by {names.get(-code, f'signal {-code}')}"
    lines = printed.strip().splitlines()
    return f"ended with exit code {code}" + (f": {lines[-1]}" if lines else "")


def unknown_name(
    kind: str, name: str, known: Iterable[str], *, others: Iterable[str] = (), where: str = ""
) -> UsageError:
    """Return the error for an unknown name; it lists the known names and suggests similar ones.

    Args:
        kind: what the name should have been, for example "model".
        others: further names, too many to list; up to three similar ones are suggested.
        where: what the others are and how to see them.
    """
    names, others = sorted(known), tuple(others)
    near = get_close_matches(name, dict.fromkeys([*names, *others]), n=3 if others else 1)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    more = f"; {where}" if where else ""
    return UsageError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}{more}")
