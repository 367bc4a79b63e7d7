from __future__ import annotations

import pytest

from convscope.errors import UsageError
from convscope.sizes import parse_bytes, size_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GiB", 4 * 2**30),
        ("1.5 GB", 1_500_000_000),
        ("800m", 800 * 2**20),
        (" 1000000 ", 1_000_000),
        ("2 tib", 2**41),
        (".5kb", 500),
        ("7B", 7),
    ],
)
def test_sizes_as_people_write_them(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "4 apples", "-1GiB", "0", "0.1", "1e9", "4GiBB", "nan"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="for example 4GiB"):
        parse_bytes(text)


def test_sizes_are_written_so_that_they_can_be_read_again() -> None:
    for num_bytes in (1, 1023, 1024, 5 * 2**20, 3 * 2**29, 7 * 2**40):
        assert parse_bytes(size_text(num_bytes).replace(",", "").replace(" bytes", "B")) == num_bytes
