"""Text from files of others, where people see it."""

import unicodedata

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}  # emoji and several scripts are written with them


def printable(text: str) -> str:
    """Return the text with every control, direction and other invisible character as an escape.

    Otherwise U+202E in a name would reverse the text after it, and ESC would command the terminal.

    Example:
        >>> printable("a" + chr(0x202E) + "b")
        'a\\\\u202eb'
    """
    if text.isprintable():
        return text
    return "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in _INVISIBLE and c not in _JOINERS else c for c in text
    )
