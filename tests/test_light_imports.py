from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = [
    "convscope",
    "convscope.cli",
    "convscope.storage.run_folder",
    "convscope.pages.page",
    "convscope.api.predict",
    "convscope.api.check",
]


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_not_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name.split('.')[0] in ('torch', 'sklearn') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("asked", ["", "predict"])
def test_the_command_line_is_there_without_torch(asked: str) -> None:
    code = f"import sys; from convscope.cli import build_app; build_app({asked!r}); "
    unwanted = ["torch", "sklearn", "pydantic"] + ["convscope.cli.train"] * bool(asked)
    code += f"sys.exit(any(name in sys.modules for name in {unwanted}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_imports_neither_laboratory_nor_statistics() -> None:
    heavy = "('convscope.experiments', 'convscope.comparison', 'scipy.stats', 'timm', 'torchvision', 'pandas')"
    code = f"import sys, convscope.api; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_onnx_runtime_leaves_no_telemetry(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", "import convscope.inference.engine"], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
