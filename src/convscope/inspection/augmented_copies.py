"""Augmented copies of training images, epoch by epoch, as training sees them."""

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.config import RunConfig
from convscope.data.batches import Preprocessing, augmented_input, copy_words
from convscope.data.dataset import ImageSet
from convscope.data.decode.resize import Resizing, resize_image
from convscope.results.panels import ImageGrid

SHOWN_IMAGES, SHOWN_EPOCHS = 3, 4
MAX_PX = 128


def augmentation_grid(images: ImageSet, train: NDArray[np.int64], config: RunConfig) -> ImageGrid:
    """Return some training images, unchanged and as the first epochs show them (frozen networks: the first copies).

    Args:
        train: indices of the training split, int64 [M].
    """

    def pixels_of(chosen: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(images.images[train[chosen]])

    settings, channels = config.train, images.shape[0]
    plain = Preprocessing((0.0,) * channels, (1.0,) * channels)
    numbers = np.linspace(0, len(train) - 1, min(SHOWN_IMAGES, len(train))).astype(np.int64)
    names = [images.class_names[images.labels[train[number]]] for number in numbers]
    rows = [[(images.images[i], f"{name}\nunchanged")] for i, name in zip(train[numbers], names, strict=True)]
    for turn in range(SHOWN_EPOCHS):
        if config.frozen:
            rows_of, words = torch.from_numpy(train[numbers]), copy_words(settings.seed, turn)
            x, mixture = plain.apply_augmented(pixels_of(numbers), settings.augment, rows_of, *words), None
        else:
            x, mixture = augmented_input(pixels_of, numbers, plain, settings, n=len(train), epoch=turn + 1)
        pixels = (x.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).byte().numpy()
        for place, row in enumerate(rows):
            content = names[place]
            if mixture is not None:
                other = images.class_names[images.labels[train[mixture.partners[place]]]]
                content = f"{mixture.shares[place]:.0%} {content}, {1 - mixture.shares[place]:.0%} {other}"
            row.append((pixels[place], f"{content}\n{'copy' if config.frozen else 'epoch'} {turn + 1}"))
    shown = [item for row in rows for item in row]
    small = Resizing(image_size=min(MAX_PX, *images.shape[1:]), gray=channels == 1)
    return ImageGrid(
        title=f"Augmentation ({', '.join(settings.augment)}): copies of the same image as training sees them",
        images=tuple(resize_image(image, small) for image, _ in shown),
        captions=tuple(caption for _, caption in shown),
    )
