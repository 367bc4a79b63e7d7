"""Values checked against type hints: the options of a run, and what the files of a run folder hold."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from math import inf, isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from convscope.errors import RunError

LARGEST_INT = 2**63 - 1
_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


@dataclass(frozen=True)
class Range:
    """In `Annotated[int, Range(1)]`: the number is at least `least`, more than `above` and at most `most`."""

    least: float = -inf
    most: float = inf
    above: float = -inf


class Record(dict[str, Any]):
    """An object of a JSON file whose values have the types of its TypedDict; a key that it lacks raises RunError."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        super().__init__(values)
        self.place = place

    def __missing__(self, key: str) -> Any:  # noqa: ANN401
        place = self.place.removesuffix(":")
        raise RunError(f"{place} has no {key!r}; the file is damaged, or another version of convscope wrote it")


@cache
def hints_of(kind: Any) -> Mapping[str, Any]:  # noqa: ANN401
    """Return the type hints of a dataclass or TypedDict by field."""
    return get_type_hints(kind, include_extras=True)


def checked(value: Any, hint: Any, name: str) -> Any:  # noqa: ANN401
    """Return a value of the type that the hint says: numpy's numbers become Python's, and lists tuples where needed.

    Args:
        hint: a scalar, Literal, list, tuple or dict of hints, one of these or None, Annotated with a Range, a
            dataclass, which is made, or a TypedDict, which becomes a Record. Unknown keys are not checked.
        name: of the value, for the message; that of a file ends with a colon.

    Raises:
        ValueError: the value is of another type or out of range, or text has no UTF-8 form.
    """
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is NotRequired:
        return checked(value, arguments[0], name)
    if origin is Annotated:
        return _in_range(checked(value, arguments[0], name), arguments[1], name)
    if origin in (Union, UnionType):
        (kind,) = set(arguments) - {NoneType}
        return None if value is None else checked(value, kind, name)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _mismatch(name, value, f"one of {', '.join(arguments)}")
        return str(value)
    if origin in (list, tuple):
        return _checked_sequence(value, origin, arguments, name)
    if origin is dict or is_typeddict(hint) or is_dataclass(hint):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise _mismatch(name, value, "an object with named values")
        return _checked_object(value, hint, name)
    return _checked_scalar(value, hint, name)


def _checked_scalar(value: Any, kind: type, name: str) -> Any:  # noqa: ANN401
    number = int | float if kind is float else kind
    if not isinstance(value, number) or (isinstance(value, bool) and kind is not bool):
        raise _mismatch(name, value, _WORDS[kind])
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise _mismatch(name, value, "a number of 64 bits")
    if isinstance(value, float) and not isfinite(value):
        raise _mismatch(name, value, _WORDS[float])
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _mismatch(name, value, "text that UTF-8 can hold") from None
    return kind(value)  # of a subclass, such as numpy's text, the thing itself


def _checked_sequence(value: Any, origin: type, arguments: Sequence[Any], name: str) -> Any:  # noqa: ANN401
    if not isinstance(value, list | tuple):
        raise _mismatch(name, value, "a list")
    of_one_kind = origin is list or arguments[1:] == (...,)
    hints = [arguments[0]] * len(value) if of_one_kind else list(arguments)
    if len(hints) != len(value):
        raise _mismatch(name, value, f"{len(hints)} values")
    return origin(checked(each, hint, f"{name}[{i}]") for i, (each, hint) in enumerate(zip(value, hints, strict=True)))


def _checked_object(value: Mapping[str, Any], hint: Any, name: str) -> Any:  # noqa: ANN401
    if get_origin(hint) is dict:
        return {key: checked(each, get_args(hint)[1], _within(name, key)) for key, each in value.items()}
    known = hints_of(hint)
    found = {key: checked(value[key], known[key], _within(name, key)) for key in known if key in value}
    if is_typeddict(hint):
        needed = hint.__required_keys__
    else:
        needed = {each.name for each in fields(hint) if each.default is MISSING and each.default_factory is MISSING}
    for key in known:
        if key in needed and key not in found:
            raise ValueError(f"{name.removesuffix(':')} has no {key!r}")
    return Record({**value, **found}, name) if is_typeddict(hint) else hint(**found)


def _within(name: str, key: str) -> str:
    return f"{name} {key}" if name.endswith(":") else f"{name}.{key}"


def _in_range(value: Any, limits: Range, name: str) -> Any:  # noqa: ANN401
    if not (limits.least <= value <= limits.most and value > limits.above):
        low = f"more than {limits.above:g}" if limits.above > -inf else f"at least {limits.least:g}"
        high = "" if limits.most == inf else f" and at most {limits.most:g}"
        raise _mismatch(name, value, low + high)
    return value


def _mismatch(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{name} {reprlib.repr(value)} is not {expected}")
