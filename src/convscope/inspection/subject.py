"""The network and image that inspections look at."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.data.batches import Preprocessing
from convscope.data.dataset import ImageSet
from convscope.data.splits import Splits
from convscope.errors import UsageError
from convscope.evaluation.metrics import make_predictions
from convscope.models.eval_mode import eval_mode
from convscope.results.panels import Panel
from convscope.results.run import Predictions


@dataclass(frozen=True)
class Evidence:
    """The data that a network was evaluated on, and its outputs.

    Args:
        split: "test", or "validation" if the data have no test split.
        logits: of the images of this split, float32 [N, K].
        validation_indices, validation_logits: images of the validation split and their logits, int64 [M] and float32
            [M, K]; M is 0 if the only other split is `split`.
    """

    images: ImageSet
    splits: Splits
    split: str
    logits: NDArray[np.float32]
    validation_indices: NDArray[np.int64]
    validation_logits: NDArray[np.float32]

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """Return the indices of the images of the split, int64 [N]."""
        indices: NDArray[np.int64] = getattr(self.splits, self.split)
        return indices

    @cached_property
    def predictions(self) -> Predictions:
        """Return the predictions for the split."""
        return make_predictions(
            logits=self.logits,
            labels=self.images.labels[self.indices],
            ids=tuple(self.images.ids[i] for i in self.indices),
            class_names=self.images.class_names,
        )


@dataclass(frozen=True)
class Subject:
    """A network and an image; with evidence, also the data that the network was evaluated on.

    Args:
        network: on `device`; its modules may be in any mode, frozen or not.
        image: uint8 [H, W, C], with the network's input size.
        layer, channel: what to look at closely; None: the inspection chooses.
    """

    network: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    image: NDArray[np.uint8]
    device: torch.device
    layer: str | None = None
    channel: int | None = None
    evidence: Evidence | None = None

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Return the class probabilities of the image, float32 [K]."""
        with eval_mode(self.network), torch.inference_mode():
            logits: Tensor = self.network(self.input())
        return np.asarray(logits[0].double().softmax(dim=0).float().cpu().numpy())

    @cached_property
    def predicted(self) -> int:
        """Return the index of the most probable class."""
        return int(self.probabilities.argmax())

    def input(self) -> Tensor:
        """Return the image as input of the network, a new float32 [1, C, H, W]."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.image)[None]).to(self.device)
        return self.preprocessing.apply(pixels).contiguous()


def evidence_of(subject: Subject) -> Evidence:
    """Return the evidence of a subject.

    Raises:
        UsageError: the subject has none.
    """
    if subject.evidence is None:
        raise UsageError("this inspection needs the data of a run; inspect a run without --image")
    return subject.evidence


@dataclass(frozen=True)
class Inspection:
    """A way to look inside a network.

    Args:
        intro: one plain sentence that tells the reader what to look for.
        needs: an image, or the evidence of a run.
        inspect: computes panels without changing modes, gradients, hooks, device or random state; raises UsageError
            with the reason if this network has nothing to show.
    """

    title: str
    intro: str
    needs: Literal["image", "evidence"]
    inspect: Callable[[Subject], tuple[Panel, ...]]
