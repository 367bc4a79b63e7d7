"""What inspections look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.data.batches import Preprocessing
from convscope.data.image_set import ImageSet
from convscope.data.splits import Splits
from convscope.errors import UsageError
from convscope.evaluation.metrics import make_predictions
from convscope.modes import evaluation_mode
from convscope.results import Panel, Predictions


@dataclass(frozen=True)
class Evidence:
    """The data a network was measured on, and what it said of them.

    Args:
        part: "test", or "validation" where the data have no test part.
        logits: of the pictures of this part, float32 [N, K].
        validation_indices, validation_logits: pictures of the validation part and their logits, int64 [M] and float32
            [M, K]; M is 0 where there is none beside `part`.
    """

    images: ImageSet
    splits: Splits
    part: str
    logits: NDArray[np.float32]
    validation_indices: NDArray[np.int64]
    validation_logits: NDArray[np.float32]

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """Return which pictures of the data set the part has, int64 [N]."""
        indices: NDArray[np.int64] = getattr(self.splits, self.part)
        return indices

    @cached_property
    def predictions(self) -> Predictions:
        """Return what the network said of the part."""
        return make_predictions(
            logits=self.logits,
            labels=self.images.labels[self.indices],
            ids=tuple(self.images.ids[i] for i in self.indices),
            class_names=self.images.class_names,
        )


@dataclass(frozen=True)
class Subject:
    """A network and a picture; with evidence also the data it was measured on.

    Args:
        network: on `device`; its modules may be in any mode, frozen or not.
        picture: uint8 [H, W, C], of the size that the network takes.
        layer, channel: what to look at closely; None leaves the choice to the inspection.
    """

    network: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    picture: NDArray[np.uint8]
    device: torch.device
    layer: str | None = None
    channel: int | None = None
    evidence: Evidence | None = None

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Return what the network says of the picture, float32 [K]."""
        with evaluation_mode(self.network), torch.inference_mode():
            logits: Tensor = self.network(self.input())
        return np.asarray(logits[0].double().softmax(dim=0).float().cpu().numpy())

    @cached_property
    def predicted(self) -> int:
        """Return the number of the most probable class."""
        return int(self.probabilities.argmax())

    def input(self) -> Tensor:
        """Return the picture as the network takes it, a new float32 [1, C, H, W]."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.picture)[None]).to(self.device)
        return self.preprocessing.apply(pixels).contiguous()


def evidence_of(subject: Subject) -> Evidence:
    """Return the evidence of a subject.

    Raises:
        UsageError: there is none.
    """
    if subject.evidence is None:
        raise UsageError("it needs the data of a run; inspect a run without --image")
    return subject.evidence


@dataclass(frozen=True)
class Inspection:
    """A way of looking.

    Args:
        intro: one plain sentence that says what to see.
        needs: what must be known beside the network: a picture, or the evidence.
        inspect: computes panels; leaves modes, gradients, hooks, device and random state as they were. It raises
            UsageError where there is nothing to see in this network, and says why.
    """

    title: str
    intro: str
    needs: Literal["picture", "evidence"]
    inspect: Callable[[Subject], tuple[Panel, ...]]
