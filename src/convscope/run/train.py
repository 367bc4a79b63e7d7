"""Training in a run: all layers, or the layers after a frozen part."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convscope.config import ComputeConfig
from convscope.data.batches import make_resident
from convscope.evaluation.predict import Forward, ModelOutput, Outputs, predict_logits, predict_outputs, torch_forward
from convscope.inference.fast_forward import fastest_forward
from convscope.progress import OnProgress
from convscope.run.prepare import Prepared
from convscope.training.loop import TrainResult
from convscope.training.transfer import Transfer, train_layers, train_transfer


def train_prepared(
    run: Path,
    prepared: Prepared,
    *,
    resume: bool,
    on_progress: OnProgress,
    planned_bytes: int | None = None,
) -> tuple[TrainResult, Outputs]:
    """Train the network in place; return how it went and a function that returns the network's outputs.

    Args:
        run: folder for checkpoints and history.jsonl.
        planned_bytes: the peak memory of the plan, shown beside the memory in use.
    """
    config, images, splits, device = prepared.config, prepared.images, prepared.splits, prepared.device
    transfer = Transfer(
        images=images,
        splits=splits,
        preprocessing=prepared.preprocessing,
        device=device,
        forward_of=lambda module: _forward_of(module, device, config.compute),
        config=config.train,
        compute=config.compute,
        run=run,
        on_progress=on_progress,
        planned_bytes=planned_bytes,
    )
    if config.frozen:
        return train_transfer(prepared.network, transfer, resume=resume)
    given = make_resident(images, splits.train, device)
    validation = make_resident(images, splits.validation, device) if len(splits.validation) else None
    trained = train_layers(prepared.network, transfer, given, validation, resume=resume)
    return trained, lambda *indices: [_outputs(prepared, each) for each in indices]


def _forward_of(module: nn.Module, device: torch.device, compute: ComputeConfig) -> Forward:
    """Return how to run a frozen module: the fastest way; under a memory limit torch's, whose memory is predicted."""
    if compute.memory is not None:
        return torch_forward(module, device)
    return fastest_forward(module, device, threads=compute.threads)


def _outputs(prepared: Prepared, indices: NDArray[np.int64]) -> ModelOutput:
    """Return the output of the trained network for some images; under a memory limit without features."""
    compute, images = prepared.config.compute, prepared.images
    if len(indices) == 0:
        return ModelOutput(np.zeros((0, images.num_classes), np.float32), None)
    data, most_at_once = make_resident(images, indices, prepared.device), compute.evaluation_batch_size
    if compute.memory is None:
        return predict_outputs(prepared.network, data, prepared.preprocessing, most_at_once=most_at_once)
    logits = predict_logits(prepared.network, data, prepared.preprocessing, most_at_once=most_at_once)
    return ModelOutput(logits.cpu().numpy(), None)
