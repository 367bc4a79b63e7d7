"""docs/architecture.md is true: its files exist, and each job takes at most twelve stops."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
JOBS = re.findall(r"^## (`convscope .*?`)\n(.*?)(?=^## )", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+(?:\.py|/))`", TEXT))))
def test_every_place_exists(name: str) -> None:
    place = ROOT / "src" / "convscope" / name
    within = list((ROOT / "src" / "convscope").glob(f"*/{name}"))  # a folder named beside its package
    assert place.exists() or within


def test_three_jobs_of_at_most_twelve_stops() -> None:
    assert len(JOBS) == 3
    for job, text in JOBS:
        stops = [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
        assert stops == list(range(1, len(stops) + 1)), job
        assert len(stops) <= 12, job


def test_every_package_is_in_the_table() -> None:
    packages = {path.parent.name for path in (ROOT / "src" / "convscope").glob("*/__init__.py")}
    table = TEXT.split("| package |", 1)[1].split("Imports point down", 1)[0]
    assert packages == set(
        re.findall(r"`(\w+)/`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:] if "|" in line))
    )


def test_ten_changes_are_named() -> None:
    rows = TEXT.split("## Ten changes", 1)[1].strip().splitlines()
    assert len([row for row in rows if row.startswith("| ")]) == 11  # and the heading
