"""Fitting a run into memory before it starts."""

from contextlib import suppress
from dataclasses import replace

import torch

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
from convscope.memory.trace import to_meta
from convscope.models.eval_mode import batch_norms
from convscope.run.prepare import Prepared

SHORT_FLOPS = 1e13
"""Runs with fewer floating-point operations are short: a minute on two cores."""


def fit_into_memory(prepared: Prepared) -> tuple[Prepared, Plan]:
    """Return the run with the changes that make it fit into memory and with the chosen batch size, and the plan.

    Raises:
        UsageError: nothing fits into the limit; names the smallest that would work. Or batches of one image were asked
            for, which the network cannot normalize.
    """
    config, splits, device = prepared.config, prepared.splits, prepared.device
    _check_batch_norm(prepared)
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


def _check_batch_norm(prepared: Prepared) -> None:
    """Raise a UsageError if a batch of one image leaves batch norm a single number of a channel to normalize."""
    train, network, num_train = prepared.config.train, prepared.network, len(prepared.splits.train)
    fitted = prepared.config.frozen and train.unfreeze_at != 1  # then batch norm keeps its running statistics
    if fitted or min(2 if train.auto_batch else train.batch_size, num_train) > 1 or not any(batch_norms(network)):
        return
    try:
        to_meta(network).train()(torch.zeros(1, *prepared.images.shape, device="meta"))
    except ValueError as error:
        way_out = "--batch-size 2 or more" if num_train > 1 else "more training images"
        raise UsageError(
            f"model {prepared.config.model.name!r} normalizes over the batch, and one image is not enough for that; "
            f"use {way_out}, or a network without batch norm ({error})"
        ) from error
    except RuntimeError:  # it computes with the values of its tensors
        return
