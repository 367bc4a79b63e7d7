"""Fitting a run into memory before it starts."""

from contextlib import suppress
from dataclasses import replace

from convscope.device import (
    configure_threads,
    free_memory_bytes,
    memory_in_use_bytes,
    peak_memory_bytes,
    return_free_memory,
    threads_for_step,
)
from convscope.errors import UsageError
from convscope.memory.plan import Plan, make_plan
from convscope.memory.stages import PlanInputs, TracedModel
from convscope.run.prepare import Prepared

SHORT_FLOPS = 1e13
"""Runs with fewer floating-point operations are short: a minute on two cores."""


def fit_into_memory(prepared: Prepared) -> tuple[Prepared, Plan]:
    """Return the run with the changes that make it fit into memory and with the chosen batch size, and the plan.

    Raises:
        UsageError: nothing fits into the limit; names the smallest that would work.
    """
    config, splits, device = prepared.config, prepared.splits, prepared.device
    inputs = PlanInputs(
        traced=TracedModel(prepared.network, prepared.images.shape),
        num_classes=prepared.images.num_classes,
        num_train=len(splits.train),
        num_validation=len(splits.validation),
        num_test=len(splits.test),
        train=config.train,
        compute=config.compute,
        frozen=config.frozen,
        device=device,
        resident_bytes=memory_in_use_bytes(device),
        peak_bytes=peak_memory_bytes(device),
    )

    def plan_for(inputs: PlanInputs) -> Plan:
        return make_plan(
            inputs,
            limit_bytes=config.compute.memory,
            free_bytes=free_memory_bytes(device),
            auto_batch=config.train.auto_batch,
            short=6 * prepared.macs * len(splits.train) * config.train.epochs < SHORT_FLOPS,
        )

    if config.compute.memory is not None or config.train.auto_batch:
        with suppress(UsageError):
            plan_for(inputs)  # imports parts of torch, whose memory the next plan has to count
        return_free_memory()
        resident, peak = memory_in_use_bytes(device), peak_memory_bytes(device)
        inputs = replace(inputs, resident_bytes=resident, peak_bytes=peak)
    plan = plan_for(inputs)
    if config.compute.threads is None:
        configure_threads(threads_for_step(prepared.macs * plan.batch_size))
    train = replace(config.train, batch_size=plan.batch_size)
    return replace(prepared, config=replace(config, train=train, compute=plan.compute)), plan
