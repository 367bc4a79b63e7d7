"""The peak memory of the process in each stage of a run: resident memory on a CPU, torch's allocator on a GPU.

Memory in use before training is measured. The rest is predicted from what the operations allocate, plus a reserve for
what cannot be predicted: the libraries' scratch space and the gaps between blocks of memory.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from convscope.config import ComputeConfig, TrainConfig
from convscope.data.batches import chunk_images, largest_batches, num_micro_batches
from convscope.errors import UsageError
from convscope.evaluation.predict import FEATURES_BATCH, evaluation_batch_size
from convscope.memory.predict import (
    cut_into_segments,
    has_values,
    optimizer_bytes,
    predict_inference_bytes,
    predict_maps_bytes,
    predict_step,
    to_trace,
)
from convscope.models.eval_mode import batch_norms
from convscope.results.memory import EVALUATION, FEATURES, HEAD, MODEL_FILE, READING, REPORT, TRAINING

LIBRARY_BYTES = 48 * 2**20
"""Code and scratch space of the libraries that the first step loads: oneDNN's kernels, threads and tables."""
END_BYTES = 40 * 2**20
"""What ONNX, ONNX Runtime, calibration and the page load at the end."""
HEAD_LIBRARY_BYTES = 44 * 2**20
"""What scipy loads to fit a head, and keeps."""
CORRECTIONS = 2 * 10
"""Vectors of all weights that L-BFGS keeps, float64."""
RESERVE_SHARE = 0.06
"""Gaps between blocks as a share of what a stage allocates, if freed memory is returned to the system at once."""
KEPT_SHARE = 0.2
"""The same if the allocator keeps freed memory for the next step, which is faster."""
MODEL_FILE_COPIES = 5
"""Copies of the weights in memory, besides the network's own, while model.onnx is written and compared."""
COMPARED_AT_ONCE = 8
"""Batch size at which model.onnx is compared with the network."""


class TracedModel:
    """A network on the device, as it will be trained, and the copies of it that are traced, each made once."""

    def __init__(self, network: nn.Module, input_shape: tuple[int, int, int]) -> None:
        self.network, self.input_shape = network, input_shape

    @cached_property
    def whole(self) -> nn.Module:
        """A copy on the meta device, or with the values of its tensors if the network computes with them."""
        return to_trace(self.network, self.input_shape)

    @property
    def computed(self) -> bool:
        """Whether memory is known from steps that really ran instead of from the meta device."""
        return has_values(self.whole)

    @cached_property
    def is_chain(self) -> bool:
        """Whether the network can be cut into segments for activation checkpointing."""
        try:
            cut_into_segments(self.whole, self.input_shape)
        except UsageError:
            return False
        return True

    @property
    def held_bytes(self) -> int:
        """Bytes of parameters and buffers."""
        return sum(t.nbytes for t in (*self.network.parameters(), *self.network.buffers()))

    def prediction_bytes(self, batch_size: int) -> int:
        """Return the bytes that inference on a batch allocates."""
        return predict_inference_bytes(self.whole, self.input_shape, batch_size)

    @cached_property
    def normalizes_batches(self) -> bool:
        """Whether the output for an image depends, in training, on the others in its batch."""
        return any(True for _ in batch_norms(self.network))

    @property
    def least_batch(self) -> int:
        """Images that a batch needs: two if the network normalizes over them."""
        return 2 if self.normalizes_batches else 1


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made for.

    Args:
        frozen: only a head is fitted, on the features of the frozen network.
        resident_bytes, peak_bytes: of the process, now and at most so far.
        keeps_freed_memory: whether the allocator keeps what a step frees for the next step.
    """

    traced: TracedModel
    num_classes: int
    num_train: int
    num_validation: int
    num_test: int
    train: TrainConfig
    compute: ComputeConfig
    frozen: bool
    device: torch.device
    resident_bytes: int
    peak_bytes: int
    keeps_freed_memory: bool = True

    @property
    def image_bytes(self) -> int:
        """Bytes of a stored image, uint8."""
        return math.prod(self.traced.input_shape)

    @property
    def input_bytes(self) -> int:
        """Bytes of an image as input of the network, float32."""
        return 4 * self.image_bytes

    @property
    def batch_size(self) -> int:
        """Images in a batch; the last one of an epoch may be smaller, or larger by one image."""
        return min(self.train.batch_size, self.num_train)

    @property
    def micro_batch_size(self) -> int:
        """Images in the largest micro-batch."""
        size, micro_batches = self.train.batch_size, self.compute.micro_batches
        return max(
            math.ceil(images / num_micro_batches(images, size, micro_batches, least=self.traced.least_batch))
            for images in largest_batches(self.num_train, size)
        )

    @property
    def all_images_bytes(self) -> int:
        """Bytes of the copies of the images that training and evaluation make."""
        return self.image_bytes * (self.num_train + self.num_validation + self.num_test)


def predict_stages(inputs: PlanInputs) -> dict[str, int]:
    """Return the peak of the process in each stage of a run, in order."""
    traced = inputs.traced
    model_file = MODEL_FILE_COPIES * traced.held_bytes + 2 * traced.prediction_bytes(COMPARED_AT_ONCE) + END_BYTES
    feature_maps = 2 * predict_maps_bytes(traced.whole, traced.input_shape) + END_BYTES  # the hooks copy each
    fitted = HEAD_LIBRARY_BYTES if inputs.frozen and inputs.train.unfreeze_at != 1 else 0
    at_end = replace(inputs, keeps_freed_memory=False, resident_bytes=inputs.resident_bytes + fitted)
    return {
        READING: inputs.peak_bytes,
        **(frozen_stages(inputs) if inputs.frozen else _learning_stages(inputs)),
        MODEL_FILE: _in_process(at_end, model_file),
        REPORT: _in_process(at_end, feature_maps),
    }


def _learning_stages(inputs: PlanInputs) -> dict[str, int]:
    return {TRAINING: training_bytes(inputs), EVALUATION: evaluation_bytes(inputs)}


def training_bytes(inputs: PlanInputs) -> int:
    """Return the peak of the process while layers are trained."""
    train, traced, input_bytes = inputs.train, inputs.traced, inputs.input_bytes
    prepared = min(chunk_images(input_bytes, train.batch_size) + 1, inputs.num_train)  # a last image joins them
    if inputs.compute.micro_batches > 1:
        train = replace(train, accumulate=max(2, train.accumulate))  # the gradients of the first exist
    step = predict_step(
        traced.whole,
        traced.input_shape,
        batch_size=inputs.micro_batch_size,
        train=train,
        compute=inputs.compute,
        prepared=prepared,
    ).peak_bytes
    step -= traced.held_bytes  # part of the process already
    # meanwhile the next chunk is prepared: its images are selected and, for augmentation, copied twice
    preparing = prepared * (inputs.image_bytes + input_bytes * (3 if train.augment else 1))
    return _in_process(inputs, inputs.all_images_bytes + preparing + step)


def evaluation_bytes(inputs: PlanInputs) -> int:
    """Return the peak of the process while a split is classified."""
    learning = [p for p in inputs.traced.network.parameters() if p.requires_grad]
    held = inputs.all_images_bytes + optimizer_bytes(learning, inputs.train)
    images = max(inputs.num_validation, inputs.num_test, 1)
    size = evaluation_batch_size(inputs.input_bytes, inputs.compute.evaluation_batch_size)
    logits = 3 * 4 * inputs.num_classes * images
    return _in_process(inputs, held + logits + inputs.traced.prediction_bytes(min(size, images)))


def frozen_stages(inputs: PlanInputs) -> dict[str, int]:
    """Return the peaks of the stages of a run with a frozen network."""
    train = inputs.train
    copies = train.augmented_copies if train.augment else 0
    row = 4 * _head_inputs(inputs.traced.network)
    features = row * (inputs.num_train * (1 + copies) + inputs.num_validation + inputs.num_test)
    at_once = min(FEATURES_BATCH, inputs.compute.evaluation_batch_size or FEATURES_BATCH)
    fitted = inputs.num_train * max(1, copies)
    # the rows are selected, concatenated and standardized; logits and probabilities are K numbers each
    fitting = row * (3 * fitted + 2 * inputs.num_validation) + 4 * 8 * fitted * inputs.num_classes
    fitting += 2 * CORRECTIONS * row * inputs.num_classes + HEAD_LIBRARY_BYTES
    return {
        FEATURES: _in_process(inputs, features + inputs.traced.prediction_bytes(at_once)),
        HEAD: _in_process(inputs, features + fitting),
    } | (_learning_stages(inputs) if train.unfreeze_at is not None else {})


def _head_inputs(network: nn.Module) -> int:
    """Return the number of input features of the last dense layer, 0 if there is none."""
    return ([module.in_features for module in network.modules() if isinstance(module, nn.Linear)] or [0])[-1]


def _in_process(inputs: PlanInputs, num_bytes: int) -> int:
    """Return the memory of the process with `num_bytes` more, plus the reserve."""
    share = KEPT_SHARE if inputs.keeps_freed_memory else RESERVE_SHARE
    library = LIBRARY_BYTES if inputs.device.type == "cpu" else 0
    return inputs.resident_bytes + library + int(num_bytes * (1 + share))
