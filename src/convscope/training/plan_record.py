"""plan.json: what a run was expected to take, stage by stage, and at its end what it took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convscope.runs import read_json, write_json
from convscope.training.loop import TrainResult
from convscope.training.plan import READING, Plan

PLAN_FILE = "plan.json"


def write_plan(run: Path, plan: Plan) -> None:
    """Write RUN/plan.json before training; what is measured is still null."""
    config = plan.config
    tree = {
        "limit_bytes": plan.limit_bytes,
        "why": plan.why,
        "batch_size": config.batch_size,
        "parts": config.parts,
        "checkpoint_activations": config.checkpoint_activations,
        "evaluation_batch": config.evaluation_batch,
        "model_file": plan.model_file,
        "keeps_freed_memory": plan.keeps_freed_memory,
        "stages": [
            {
                "stage": stage,
                "predicted_bytes": None if stage == READING else num_bytes,
                "measured_bytes": num_bytes if stage == READING else None,  # it lay behind when the plan was made
            }
            for stage, num_bytes in plan.stages.items()
        ],
        "peak": {"predicted_bytes": plan.peak_bytes, "measured_bytes": None},
        "seconds": {"predicted": None, "measured": None},
    }
    write_json(run / PLAN_FILE, tree)


def read_plan(run: Path) -> dict[str, Any] | None:
    """Return what `write_plan` wrote, None for a run of an older version."""
    path = run / PLAN_FILE
    tree: dict[str, Any] | None = read_json(path) if path.exists() else None
    return tree


def complete_plan(run: Path, plan: Mapping[str, Any], peaks: Mapping[str, int], trained: TrainResult) -> None:
    """Write RUN/plan.json with what was measured.

    Args:
        peaks: stage -> most memory of the process up to its end, in bytes.
    """
    stages = {entry["stage"]: dict(entry) for entry in plan["stages"]}
    for stage, num_bytes in peaks.items():
        entry = stages.setdefault(stage, {"stage": stage, "predicted_bytes": None})
        entry["measured_bytes"] = num_bytes
    measured = {
        "stages": list(stages.values()),
        "peak": plan["peak"] | {"measured_bytes": max(peaks.values())},
        "seconds": {"predicted": trained.expected_seconds, "measured": trained.train_seconds},
    }
    write_json(run / PLAN_FILE, {**plan, **measured})
