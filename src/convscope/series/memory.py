"""What the runs of a comparison will take, predicted before the first of them begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from convscope.config import DataConfig, RunConfig
from convscope.data import load_images
from convscope.data.batches import CHUNK_BYTES
from convscope.data.image_set import ImageSet
from convscope.device import memory_in_use_bytes
from convscope.evaluation.predict import evaluation_batch_size
from convscope.models.blocks import InputShape
from convscope.needs import budget_of_run
from convscope.progress import OnProgress

CHUNKS = 3
"""Pieces of CHUNK_BYTES with prepared pictures: one in use, one made ahead, and the uint8 pictures they come from."""


@dataclass(frozen=True)
class Need:
    """What one run takes.

    Args:
        process_bytes: the most memory of its process; None if nobody can say.
        step_macs: multiply-accumulate operations of a step, forward, for the whole batch; None likewise.
    """

    process_bytes: int | None
    step_macs: int | None


def predict_needs(configs: Sequence[RunConfig], on_progress: OnProgress) -> list[Need]:
    """Return what each run will take; the data are read once, so that the runs find photos already decoded.

    A process takes what this one takes now, for the interpreter and the libraries; the pictures twice, as they are read
    and cut into parts; and a step of training or, where that is more, a batch of evaluation.
    """
    begin = memory_in_use_bytes(torch.device("cpu"))
    sizes: dict[DataConfig, tuple[int, InputShape, int]] = {}
    needs = []
    for config in configs:
        if config.data not in sizes:
            sizes[config.data] = _sizes(load_images(config.data, on_progress))
        pictures_bytes, shape, num_classes = sizes[config.data]
        step = budget_of_run(config, shape, num_classes)
        if step is None:
            needs.append(Need(None, None))
            continue
        network = max(step.memory.training_peak_bytes, _evaluation_bytes(config, shape, num_classes))
        needs.append(Need(begin + 2 * pictures_bytes + CHUNKS * CHUNK_BYTES + network, step.macs * step.batch_size))
    return needs


def _sizes(images: ImageSet) -> tuple[int, InputShape, int]:
    return images.images.nbytes, images.shape, images.num_classes


def _evaluation_bytes(config: RunConfig, shape: InputShape, num_classes: int) -> int:
    channels, height, width = shape
    batch = evaluation_batch_size(4 * channels * height * width)
    budget = budget_of_run(config, shape, num_classes, batch_size=batch)
    return 0 if budget is None else budget.memory.inference_peak_bytes
