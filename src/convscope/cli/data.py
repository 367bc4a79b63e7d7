"""`convscope data list`: data sets by name. Imports no torch."""

from convscope.cli.console import print_json, print_table, print_text
from convscope.cli.options import Json


def list_(as_json: Json = False) -> None:
    """List the data sets that are known by name."""
    from convscope.data.load import DATASETS

    if as_json:
        entries = [{"name": n, "description": s.description, "needs": s.needs} for n, s in DATASETS.items()]
        print_json({"data": entries})
        return
    print_table(("name", "what it is", "needs"), [(n, s.description, s.needs) for n, s in DATASETS.items()])
    print_text(
        "Beside these: any folder, zip or tar of class folders, with or without train, val and test folders around "
        "them, and any CSV with the columns path, label and, if you like, split.",
        note=True,
    )
