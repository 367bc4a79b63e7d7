"""Imports point down: the levels of the package, checked on its syntax trees."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import convscope

PACKAGE = Path(__file__).parents[1] / "src" / "convscope"
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
MOST_AT_THE_TOP = 11
"""Modules beside the packages."""
WITHOUT_TORCH = (
    *("cpu", "errors", "progress", "results", "schema", "sizes", "config", "seeds", "pages", "cli"),
    *("storage.files", "storage.run_folder", "storage.checkpoints", "storage.cache", "storage.download"),
    *("data.sources", "data.decode", "data.health", "inference.card", "inference.engine", "inference.session"),
    *("comparison.compare", "comparison.recorded", "comparison.significance", "api.check", "api.predict"),
    "writeups.recipes",
)
"""Modules, and packages with all that is in them, that import no torch themselves."""


def read_levels() -> dict[str, int]:
    """Return the level of each module and package from the lines in CONTRIBUTING.md that say it."""
    text = CONTRIBUTING.read_text()
    block = re.search(r"^    (cpu errors .*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert block is not None, f"{CONTRIBUTING.name} does not name the levels"
    found = {name: level for level, names in enumerate(block[1].split("<")) for name in names.split()}
    return {"__version__": -1} | found | {"__main__": len(found)}


LEVEL_OF = read_levels()


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
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if any(".".join(parts[:depth]) in WITHOUT_TORCH for depth in range(1, len(parts) + 1)):
        assert not {name for name in imported_modules(path) if name.split(".")[0] in ("torch", "timm", "torchvision")}


def test_modules_without_torch_exist() -> None:
    for name in WITHOUT_TORCH:
        place = PACKAGE.joinpath(*name.split("."))
        assert place.is_dir() or place.with_suffix(".py").is_file(), name


def test_few_modules_stand_beside_the_packages() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_TOP


def test_every_module_has_a_level() -> None:
    there = {module_of(path) for path in SOURCES} - {"__main__"}
    assert there == set(LEVEL_OF) - {"__main__", "__version__"}


def test_no_module_takes_the_name_of_a_verb() -> None:
    """`convscope.export` would be the module once anything had imported it."""
    assert not {module_of(path) for path in SOURCES} & set(convscope.__all__)


TESTS = sorted(Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_no_test_module_imports_another(path: Path) -> None:
    assert not {name for name in imported_modules(path) if name.startswith("tests.") and ".support" not in name}


LEAVES = {"experiments": "api/lab.py", "writeups": "api/recipe.py"}
"""Packages that can be deleted, and the one file that may import them: that of their own verb."""


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_comes_off_clean(leaf: str) -> None:
    others = [path for path in SOURCES if module_of(path) != leaf]
    users = [path for path in others if any(name.startswith(f"convscope.{leaf}") for name in imported_modules(path))]
    assert [path.relative_to(PACKAGE).as_posix() for path in users] == [LEAVES[leaf]]
