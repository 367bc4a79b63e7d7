"""What all tests share: the reference data's place and small data sets made on the spot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convscope.data.image_set import ImageSet

REFERENCE = Path(__file__).parents[1].parent / "shared" / "data"
"""Real data sets beside the checkout; tests that need them are skipped where it is absent."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep decoded pictures and the like out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def reference() -> Path:
    if not REFERENCE.is_dir():
        pytest.skip("no reference data (shared/data beside the checkout)")
    return REFERENCE


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on this machine: `apt-get install chromium`")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: `pip install playwright`")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def make_image_set(
    counts: tuple[int, ...] = (30, 20, 10), *, side: int = 8, channels: int = 1, parts: str = "", seed: int = 0
) -> ImageSet:
    """Return noise pictures, `counts[k]` of class k, with a bright square whose place tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    images = rng.integers(0, 100, (len(labels), side, side, channels), dtype=np.uint8)
    for index, label in enumerate(labels):
        images[index, label : label + 3, label : label + 3] = 255
    return ImageSet(
        name="made",
        images=images,
        labels=labels,
        class_names=tuple(f"class {k}" for k in range(len(counts))),
        ids=tuple(f"{i}.png" for i in range(len(labels))),
        parts=(parts,) * len(labels),
    )
