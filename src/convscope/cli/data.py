"""`convscope data list`: data sets by name."""

from __future__ import annotations

from convscope.cli.console import error_console, print_json, print_table
from convscope.cli.options import Json


def list_(as_json: Json = False) -> None:
    """List the data sets that are known by name."""
    from convscope.data import DATASETS

    if as_json:
        entries = [{"name": n, "description": s.description, "needs": s.needs} for n, s in DATASETS.items()]
        print_json({"data": entries})
        return
    print_table(("name", "what it is", "needs"), [(n, s.description, s.needs) for n, s in DATASETS.items()])
    error_console().print(
        "Beside these: any folder, zip or tar of class folders, with or without train/val/test parts, "
        "and any CSV with the columns path, label and, where wanted, split."
    )
