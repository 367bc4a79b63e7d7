"""The report of a run: one HTML file that opens from the disk, computed from what the run recorded."""

from __future__ import annotations

from convscope.report.page import build_report
from convscope.report.sections import SECTIONS

__all__ = ["SECTIONS", "build_report"]
