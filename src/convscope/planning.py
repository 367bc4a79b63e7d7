"""A run is fitted into memory before it starts."""

from __future__ import annotations

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
from convscope.training.plan import Plan, Shells, Situation, make_plan
from convscope.workflow import Prepared

SHORT_FLOPS = 1e13
"""Floating-point operations of a short run: a minute on two cores."""


def fit_into_memory(prepared: Prepared) -> tuple[Prepared, Plan]:
    """Return the run with what its memory makes necessary and the batch size that was left to be chosen, and why.

    Raises:
        UsageError: nothing fits into the limit; names the smallest that would work.
    """
    config, splits, device = prepared.config, prepared.splits, prepared.device
    situation = Situation(
        shells=Shells(prepared.network, prepared.images.shape),
        num_classes=prepared.images.num_classes,
        num_train=len(splits.train),
        num_validation=len(splits.validation),
        num_test=len(splits.test),
        config=config.train,
        frozen=config.frozen,
        device=device,
        resident_bytes=memory_in_use_bytes(device),
        peak_bytes=peak_memory_bytes(device),
    )

    def plan_for(situation: Situation) -> Plan:
        return make_plan(
            situation,
            limit_bytes=config.train.memory,
            free_bytes=free_memory_bytes(device),
            auto_batch=config.train.auto_batch,
            short=6 * prepared.macs * len(splits.train) * config.train.epochs < SHORT_FLOPS,
        )

    if config.train.memory is not None or config.train.auto_batch:
        with suppress(UsageError):
            plan_for(situation)  # the first plan imports parts of torch, which the second has to know of
        return_free_memory()
        resident, peak = memory_in_use_bytes(device), peak_memory_bytes(device)
        situation = replace(situation, resident_bytes=resident, peak_bytes=peak)
    plan = plan_for(situation)
    if config.train.threads is None:
        configure_threads(threads_for_step(prepared.macs * plan.config.batch_size))
    return replace(prepared, config=replace(config, train=plan.config)), plan
