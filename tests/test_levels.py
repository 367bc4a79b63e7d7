"""Imports point down: the levels of the package, checked on its syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import convscope

PACKAGE = Path(__file__).parents[1] / "src" / "convscope"
LEVELS = (
    ("__version__",),  # of the package itself, which imports nothing until it is used
    ("errors", "pictures", "processors", "progress", "results"),
    ("config", "device", "distributed", "modes", "randomness", "sizes"),
    ("download", "runs", "recipes"),
    ("data", "models", "panels"),
    ("budget", "onnx_session"),
    ("evaluation", "engine", "changes"),
    ("training", "inspection", "exporting"),
    ("comparison", "report"),
    ("serve",),
    ("needs", "workflow"),
    ("checkup", "forecast", "insight", "lab", "planning", "prediction"),
    ("api",),
    ("series",),
    ("cli",),
    ("__main__",),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
WITHOUT_TORCH = (
    "errors",
    "pictures",
    "progress",
    "results",
    "config",
    "randomness",
    "sizes",
    "download",
    "runs",
    "recipes",
    "panels",
    "onnx_session",
    "engine",
    "prediction",
    "checkup",
    "report",
    "comparison",
    "cli",
)


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(path: Path) -> set[str]:
    """Return what a file imports, in full dotted names; inside functions too, but not for type checking alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    me = module_of(path)
    for name in imported_modules(path):
        package, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if package == "convscope" and other != me and rest:
            allowed = other in LEVEL_OF and LEVEL_OF[other] < LEVEL_OF[me]
            assert allowed, f"{path.name} ({me}, level {LEVEL_OF[me]}) imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_torch_where_none_belongs(path: Path) -> None:
    if module_of(path) in WITHOUT_TORCH:
        assert not {name for name in imported_modules(path) if name.split(".")[0] in ("torch", "timm", "torchvision")}


def test_every_module_has_a_level() -> None:
    assert {module_of(path) for path in SOURCES} <= set(LEVEL_OF)


def test_no_module_takes_the_name_of_a_verb() -> None:
    """`convscope.export` would be the module once anything had imported it."""
    assert not {module_of(path) for path in SOURCES} & set(convscope.__all__)
