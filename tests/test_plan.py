"""How a run is fitted into memory: what is chosen, in which order, and that a real run stays below its limit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import convscope
from convscope.config import ComputeConfig, ModelConfig, TrainConfig
from convscope.errors import UsageError
from convscope.memory.plan import Plan, make_plan, plan_options
from convscope.memory.predict import COMPUTED
from convscope.memory.stages import HEAD_LIBRARY_BYTES, PlanInputs, TracedModel, predict_stages
from convscope.models import build_shapes
from convscope.models.saved import channels_last
from convscope.progress import Progress
from convscope.results.memory import READING, TRAINING
from convscope.run.configure import Options
from convscope.storage.files import read_json
from convscope.storage.run_folder import read_config

MIB = 2**20


def make_inputs(*, norm: bool = False, frozen: bool = False, **options: object) -> PlanInputs:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1)]
    for _ in range(3):
        layers += [*([nn.BatchNorm2d(64)] if norm else []), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return PlanInputs(
        traced=TracedModel(network, (3, 32, 32)),
        num_classes=10,
        num_train=5000,
        num_validation=500,
        num_test=1000,
        train=TrainConfig(batch_size=64, **options),  # type: ignore[arg-type]
        compute=ComputeConfig(),
        frozen=frozen,
        device=torch.device("cpu"),
        resident_bytes=400 * MIB,
        peak_bytes=410 * MIB,
    )


def plan_within(where: PlanInputs, limit_mib: int) -> Plan:
    return make_plan(where, limit_bytes=limit_mib * MIB, free_bytes=2**40, auto_batch=False)


def smallest_mib(where: PlanInputs) -> int:
    with pytest.raises(UsageError, match="too little for this run") as refusal:
        plan_within(where, 100)
    found = re.search(r"--memory (\d+)MiB", str(refusal.value))
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("options", [{}, {"norm": True}, {"frozen": True}, {"optimizer": "sgd", "accumulate": 4}])
def test_the_smallest_limit_that_is_named_is_the_smallest_that_works(options: dict[str, object]) -> None:
    where = make_inputs(**options)  # type: ignore[arg-type]
    smallest = smallest_mib(where)
    assert max(plan_within(where, smallest).stages.values()) <= smallest * MIB
    with pytest.raises(UsageError, match="too little"):
        plan_within(where, smallest - 2)


def test_plans_fit_and_cost_more_time_only_where_less_memory_is_given() -> None:
    where = make_inputs()
    smallest = smallest_mib(where)
    plans = [plan_within(where, smallest + more) for more in (0, 4, 8, 16, 32, 100, 800)]
    for plan in plans:
        assert plan.limit_bytes is not None
        assert max(plan.stages.values()) <= plan.limit_bytes
        kept = replace(plan.compute, micro_batches=1, checkpoint_activations=False, evaluation_batch_size=None)
        assert kept == where.compute  # nothing that changes the result was touched
    ways = [(plan.keeps_freed_memory, plan.compute.checkpoint_activations) for plan in plans]
    assert len(set(ways)) > 1
    for way in set(ways):
        numbers = [plan.compute.micro_batches for plan, its_way in zip(plans, ways, strict=True) if its_way == way]
        assert numbers == sorted(numbers, reverse=True)
    assert plans[-1].compute == where.compute
    assert plans[-1].why.endswith("no change was needed")
    assert len({plan.compute.micro_batches for plan in plans}) > 2


def test_checkpoints_come_before_micro_batches_where_those_change_the_result() -> None:
    where = make_inputs(norm=True)
    plain = predict_stages(replace(where, keeps_freed_memory=False))[TRAINING] // MIB
    plan = plan_within(where, plain - 20)
    assert plan.compute.checkpoint_activations
    assert plan.compute.micro_batches == 1
    tight = plan_within(where, smallest_mib(where))
    assert tight.compute.micro_batches > 1
    assert "batch norm sees one micro-batch at a time" in tight.why
    assert where.train.batch_size // tight.compute.micro_batches >= 2


def test_without_a_limit_nothing_changes() -> None:
    where = make_inputs()
    plan = make_plan(where, limit_bytes=None, free_bytes=0, auto_batch=False)
    assert plan.compute == where.compute
    assert plan.stages == predict_stages(where)
    short = make_plan(where, limit_bytes=None, free_bytes=0, auto_batch=False, short=True)
    assert (short.compute, short.peak_bytes) == (where.compute, None)
    assert "not predicted" in short.why


@pytest.mark.parametrize(("images", "expected"), [(5000, 128), (100_000, 256), (100, 2), (20, 1)])
def test_the_batch_size_suits_the_number_of_images(images: int, expected: int) -> None:
    where = replace(make_inputs(), num_train=images)
    plan = make_plan(where, limit_bytes=None, free_bytes=2**40, auto_batch=True)
    assert plan.batch_size == expected
    assert plan.limit_bytes is None


@pytest.mark.parametrize("limited", [True, False])
def test_the_batch_size_is_the_largest_that_fits(limited: bool) -> None:
    where = make_inputs()
    room = 700 * MIB
    limit, free = (room, 2**40) if limited else (None, room - where.resident_bytes)
    size = make_plan(where, limit_bytes=limit, free_bytes=free, auto_batch=True).batch_size

    def takes(batch_size: int) -> int:
        return predict_stages(replace(where, train=replace(where.train, batch_size=batch_size)))[TRAINING]

    assert takes(size) <= room < takes(2 * size)


def test_a_run_records_its_plan_and_goes_on_with_what_was_chosen(tmp_path: Path) -> None:
    shown: list[Progress] = []
    options: Options = {"epochs": 1, "memory": "64GiB", "batch_size": "auto", "micro_batches": 2}
    convscope.train("digits", out=tmp_path / "run", report=False, model="mlp", on_progress=shown.append, **options)
    plan, config = read_json(tmp_path / "run" / "plan.json"), read_config(tmp_path / "run")
    assert config.train.batch_size == plan["batch_size"] == 32  # of 1,257 images
    assert (config.compute.memory, config.compute.micro_batches) == (64 * 2**30, 2)
    assert [entry["stage"] for entry in plan["stages"]] == ["data", "training", "evaluation", "model file", "report"]
    measured = [entry["measured_bytes"] for entry in plan["stages"]]
    assert measured == sorted(measured)
    assert plan["peak"]["measured_bytes"] == measured[-1]
    assert plan["seconds"]["measured"] > 0
    assert any(progress.stage.startswith("memory: a batch size of 32 was chosen") for progress in shown)
    planned = plan["peak"]["predicted_bytes"] / MIB
    assert any(p.values.get("memory", "").endswith(f" of {planned:,.0f} MiB") for p in shown)


def test_a_network_that_needs_the_content_of_its_tensors_is_run() -> None:
    class Curious(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flatten(1) * (2 if float(x.mean()) > 1 else 3))

    class Plain(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flatten(1) * 3)

    curious, plain = (
        replace(make_inputs(), traced=TracedModel(kind(3072, 10), (3, 32, 32))) for kind in (Curious, Plain)
    )
    found, expected = (make_plan(where, limit_bytes=None, free_bytes=0, auto_batch=False) for where in (curious, plain))
    assert found.stages == pytest.approx(expected.stages, abs=4096)
    assert found.why == f"{expected.why}; {COMPUTED}"
    limited = plan_within(curious, 10_000)
    assert limited.compute == curious.compute
    assert COMPUTED in limited.why


def test_an_impossible_limit_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"memory 1.0 MiB is too little for this run: the smallest that works"):
        convscope.train("digits", model="mlp", memory="1MiB", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


CHILD = """
import sys
from pathlib import Path
import convscope
try:
    convscope.train("digits", model="cnn", image_size=48, epochs=1, batch_size=128, memory=sys.argv[1], out=sys.argv[2])
except convscope.errors.UsageError as error:
    sys.exit(str(error))
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_process_stays_below_the_smallest_limit_that_is_named(tmp_path: Path) -> None:
    def run(limit: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CHILD, limit, str(tmp_path / limit)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = run("100MiB")
    assert refused.returncode == 1
    found = re.search(r"--memory (\d+)MiB", refused.stderr)
    assert found is not None, refused.stderr
    limit = int(found[1]) + 8  # two starts of the interpreter differ by a few MiB
    done = run(f"{limit}MiB")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) <= 1024 * limit
    plan = json.loads((tmp_path / f"{limit}MiB" / "plan.json").read_text())
    assert plan["micro_batches"] > 1


@pytest.mark.parametrize("limit", ["60MiB more", "5GiB"])
def test_budget_and_train_choose_the_same(limit: str) -> None:
    """`budget --fit` asks the planner of `train --memory`, with a process like this one before its first step."""
    with pytest.raises(UsageError, match="too little") as refused:
        convscope.budget("cnn", batch_size=256, fit="1MiB", images=4000)
    found = re.search(r"--memory (\d+)MiB", str(refused.value))
    assert found is not None
    limit_bytes = 5 * 2**30 if limit == "5GiB" else (int(found[1]) + 60) * MIB
    fit = convscope.budget("cnn", batch_size=256, fit=limit_bytes, images=4000).fit
    assert fit is not None
    assert fit.peak_bytes == max(fit.stages.values()) <= limit_bytes
    network = channels_last(build_shapes(ModelConfig(name="cnn"), (1, 28, 28), 10))
    where = PlanInputs(
        traced=TracedModel(network, (1, 28, 28)),
        num_classes=10,
        num_train=4000,
        num_validation=857,
        num_test=857,
        train=TrainConfig(batch_size=256),
        compute=ComputeConfig(),
        frozen=False,
        device=torch.device("cpu"),
        resident_bytes=fit.stages[READING],
        peak_bytes=fit.stages[READING],
    )
    plan = make_plan(where, limit_bytes=limit_bytes, free_bytes=0, auto_batch=False)
    assert (plan.stages, plan.why) == (fit.stages, fit.reason)
    assert plan.compute.micro_batches == fit.micro_batches
    assert plan_options(plan, where.compute) == fit.options
    assert (fit.micro_batches > 1) == (limit != "5GiB")


def test_what_fitting_a_head_loads_is_known() -> None:
    """Measured in a process of its own, which has what comes before."""
    code = """if True:
        import numpy, psutil
        before = psutil.Process().memory_info().rss
        from convscope.training.head import fit_head
        features, labels = numpy.eye(8, dtype=numpy.float32), numpy.arange(8) % 2
        fit_head(features, labels, num_classes=2, validation=(features, labels))
        print(psutil.Process().memory_info().rss - before)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAD_LIBRARY_BYTES / 2 < int(done.stdout) < 1.5 * HEAD_LIBRARY_BYTES
