"""The first half of a run: data, splits, network and device."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.config import RunConfig
from convscope.data.batches import Preprocessing, channel_statistics, make_preprocessing, make_resident
from convscope.data.dataset import ImageSet
from convscope.data.load import load_images
from convscope.data.names import first_names
from convscope.data.sources.build import Limit
from convscope.data.splits import Splits, make_splits
from convscope.device import (
    choose_device,
    configure_threads,
    keep_freed_memory,
    limit_device_memory,
    memory_in_use_bytes,
    release_freed_memory,
    threads_for_step,
)
from convscope.errors import UsageError
from convscope.memory.macs import count_macs
from convscope.models import build_model, published_preprocessing
from convscope.models.saved import channels_last
from convscope.models.surgery.first_layer import whiten_first_layer
from convscope.models.zoo.pretrained import fetch_weights
from convscope.progress import OnProgress, Progress
from convscope.run.own_data import as_recorded, read_splits
from convscope.seeds import derive_seed, permutation

WHITENING_IMAGES = 2000
"""Most training images from whose patches the first layer is computed."""

CALIBRATION_IMAGES = 2000
"""Most validation images to fit the temperature on: it is a single number."""

CLASS_MEAN_IMAGES, LEAST_OF_CLASS = 1000, 10
"""Most training images for the mean features of the classes, but this many of each class if there are."""


@dataclass(frozen=True)
class Prepared:
    """The data and network of a run, ready to train.

    Args:
        statistics: mean and standard deviation of the training split, 0..1.
        macs: multiply-accumulate operations for one image, forward.
    """

    config: RunConfig
    images: ImageSet
    splits: Splits
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    network: torch.nn.Module
    macs: int
    device: torch.device

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of images: that of the published weights, if there are any and no other is asked for."""
        published = published_preprocessing(self.config.model)
        channels, *_ = self.images.shape
        if self.config.train.normalize_by == "0.5":
            statistics = (0.5,) * channels, (0.5,) * channels
        else:
            statistics = self.statistics if published is None else published.statistics(channels)
        return make_preprocessing(*statistics, normalize=self.config.train.normalize)

    @property
    def evaluation_split(self) -> str:
        """The split for the results: test, or validation if there is no test split."""
        return "test" if len(self.splits.test) else "validation"


def prepare(
    config: RunConfig, on_progress: OnProgress, *, images: ImageSet | None = None, run: Path | None = None
) -> Prepared:
    """Read and split the data and build the network, with trained weights or the seed's random ones, on the device.

    Args:
        images: replace those that the configuration names.
        run: one that is resumed; its images keep their splits, and its classes their order.

    Raises:
        UsageError, DataError, WeightsError: the options, data or weights cannot be used; nothing was written.
    """
    device = choose_device(config.compute.device)
    if config.compute.memory is None:
        keep_freed_memory()
    else:
        release_freed_memory()
        limit_device_memory(device, config.compute.memory)
    configure_threads(config.compute.threads)
    fetch_weights(config.model, on_progress)  # before the images, which may take long
    if images is None:
        limit = None
        if config.compute.memory is not None and device.type == "cpu":
            limit = Limit(config.compute.memory, memory_in_use_bytes(device))
        images = load_images(config.data, on_progress, limit=limit)
    if run is None:
        splits = make_splits(images, config.data)
    else:
        images = as_recorded(run, images)
        splits = read_splits(run, images, config)
    classes = f"{images.num_classes} ({first_names(images.class_names)})"
    on_progress(Progress("data", len(images), len(images), values={"images": f"{len(images):,}", "classes": classes}))
    if len(splits.test) == len(splits.validation) == 0:
        raise UsageError("no images to evaluate on; give the test or validation split a share, e.g. --split 80/0/20")
    torch.manual_seed(derive_seed(config.train.seed, "weights"))
    network = channels_last(build_model(config.model, images.shape, images.num_classes)).to(device)
    macs = count_macs(network, images.shape)
    if config.compute.threads is None:
        configure_threads(threads_for_step(macs * config.train.batch_size))
    statistics = channel_statistics(images.images[splits.train])
    prepared = Prepared(config, images, splits, statistics, network, macs, device)
    if config.train.whiten:
        _whiten(prepared)
    return prepared


def _whiten(prepared: Prepared) -> None:
    """Compute the network's first layer from training images."""
    train = prepared.splits.train
    chosen = train[permutation(len(train), "whitening")[:WHITENING_IMAGES]]
    images = make_resident(prepared.images, chosen, prepared.device).select()
    try:
        whiten_first_layer(prepared.network, prepared.preprocessing.apply(images))
    except UsageError as error:
        raise UsageError(f"model {prepared.config.model.name!r}: {error}") from error


def calibration_indices(splits: Splits) -> NDArray[np.int64]:
    """Return the validation images to fit a temperature on; none if the results are measured on that split."""
    validation = splits.validation if len(splits.test) else splits.validation[:0]
    return validation[permutation(len(validation), "calibration")[:CALIBRATION_IMAGES]]


def class_mean_indices(images: ImageSet, splits: Splits) -> NDArray[np.int64]:
    """Return the training images for the mean features of each class, about as many of each and all of a small one."""
    most, train = max(LEAST_OF_CLASS, CLASS_MEAN_IMAGES // images.num_classes), splits.train
    members = [train[images.labels[train] == label] for label in range(images.num_classes)]
    return np.concatenate([of[permutation(len(of), "class means", k)[:most]] for k, of in enumerate(members)])
