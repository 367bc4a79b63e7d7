"""What augmentation makes of a picture, epoch by epoch, as training sees it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.config import RunConfig
from convscope.data.batches import Preprocessing, augmented_input
from convscope.data.image_set import ImageSet
from convscope.data.intake import Fit, fit_picture
from convscope.results import ImageGrid

SHOWN_PICTURES, SHOWN_EPOCHS = 3, 4
MAX_PX = 128


def augmentation_grid(images: ImageSet, train: NDArray[np.int64], config: RunConfig) -> ImageGrid:
    """Return some training pictures, each as it is and as the first epochs (of a frozen network: views) show it.

    Args:
        train: indices of the training part, int64 [M].
    """
    settings, channels = config.train, images.shape[0]
    plain = Preprocessing((0.0,) * channels, (1.0,) * channels)
    numbers = np.linspace(0, len(train) - 1, min(SHOWN_PICTURES, len(train))).astype(np.int64)
    names = [images.class_names[images.labels[train[number]]] for number in numbers]
    rows = [[(images.images[train[number]], f"{name}\nas it is")] for number, name in zip(numbers, names, strict=True)]
    for turn in range(SHOWN_EPOCHS):
        if config.frozen:
            chosen = torch.from_numpy(images.images[train[numbers]])
            words = (settings.seed, "view", turn)
            x, mixture = plain.apply_augmented(chosen, settings.augment, torch.from_numpy(train[numbers]), *words), None
        else:
            x, mixture = augmented_input(
                lambda chosen: torch.from_numpy(images.images[train[chosen]]),
                numbers,
                plain,
                settings.augment,
                n=len(train),
                seed=settings.seed,
                epoch=turn + 1,
            )
        pixels = (x.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).byte().numpy()
        for place, row in enumerate(rows):
            what = names[place]
            if mixture is not None:
                other = images.class_names[images.labels[train[mixture.partners[place]]]]
                what = f"{mixture.shares[place]:.0%} {what}, {1 - mixture.shares[place]:.0%} {other}"
            row.append((pixels[place], f"{what}\n{'view' if config.frozen else 'epoch'} {turn + 1}"))
    shown = [item for row in rows for item in row]
    small = Fit(image_size=min(MAX_PX, *images.shape[1:]), gray=channels == 1)
    return ImageGrid(
        title=f"Augmentation ({', '.join(settings.augment)}): what training sees of the same picture",
        images=tuple(fit_picture(image, small) for image, _ in shown),
        captions=tuple(caption for _, caption in shown),
    )
