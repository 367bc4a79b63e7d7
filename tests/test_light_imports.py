from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = [
    "convscope",
    "convscope.cli",
    "convscope.runs",
    "convscope.report.page",
    "convscope.prediction",
    "convscope.checkup",
]


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_not_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name.split('.')[0] in ('torch', 'sklearn') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_imports_neither_laboratory_nor_statistics() -> None:
    heavy = "('convscope.lab', 'convscope.comparison', 'scipy.stats', 'timm', 'torchvision', 'pandas')"
    code = f"import sys, convscope.api; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
