"""`report`: a run's page, drawn from what the run recorded."""

from pathlib import Path

from convscope.pages.page import build_report
from convscope.storage.run_folder import locked


def report(run: str | Path) -> Path:
    """Write RUN/report.html again from what the run recorded; return its path."""
    run = Path(run)
    with locked(run):
        return build_report(run)
