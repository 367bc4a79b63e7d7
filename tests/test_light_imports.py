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
