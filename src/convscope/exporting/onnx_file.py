"""A trained network as one ONNX file: from uint8 pictures to logits, with all that is needed to use it inside.

Written by torch's exporter by tracing: it is deprecated, and its successor needs a further package and 2 to 15 times
as long (3.1 s instead of 0.45 for our default network, 6.5 s instead of 2.7 for EfficientNet-Lite0, imports included).
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Sequence
from typing import cast

import onnx
import torch
from torch import Tensor, nn

from convscope.engine import CARD_KEY, ModelCard, card_to_json
from convscope.errors import ExportError
from convscope.exporting.unknown import SHORTEST, Centres
from convscope.models.blocks import InputShape
from convscope.models.head import find_dense_head
from convscope.models.libraries import constant_padding

OPSET = 18
"""Version of ONNX's operators (2022); every ONNX Runtime since 1.14 has it."""


class WithPreprocessing(nn.Module):
    """A network that takes pictures as they are stored, uint8 [B, H, W, C], and normalizes them itself.

    Args:
        mean, std: of each channel in units of 0..1; input = (pixel / 255 - mean) / std.
        centres: float32 [K, F] of length 1, mean directions of what the last layer is given; None: no likeness.
    """

    scale: Tensor
    offset: Tensor
    centres: Tensor | None

    def __init__(
        self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], centres: Centres | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("centres", None if centres is None else torch.from_numpy(centres))
        self._features: Tensor | None = None
        head = find_dense_head(network)
        if head is not None and centres is not None:
            head.register_forward_pre_hook(self._keep)
        self.network = network
        deviation = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        self.register_buffer("scale", (1 / (255 * deviation)).float())
        self.register_buffer("offset", (-torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1) / deviation).float())

    def forward(self, pictures: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits [B, K]; with centres also the cosine to the nearest one [B]."""
        logits: Tensor = self.network(pictures.permute(0, 3, 1, 2).float() * self.scale + self.offset)
        if self.centres is None:
            return logits
        assert self._features is not None
        unit = self._features / self._features.norm(dim=1, keepdim=True).clamp(min=SHORTEST)
        return logits, (unit @ self.centres.T).amax(1)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0]


def to_onnx(
    network: nn.Module,
    input_shape: InputShape,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    card: ModelCard,
    centres: Centres | None = None,
) -> bytes:
    """Return the content of a model file; the network stays as it is.

    Args:
        centres: see `WithPreprocessing`; with them the file gives `alike` beside `logits`.

    Raises:
        ExportError: the network does something that ONNX has no operator for.
    """
    channels, height, width = input_shape
    model = WithPreprocessing(copy.deepcopy(network).cpu(), mean, std, centres).eval()
    pictures = torch.zeros(2, height, width, channels, dtype=torch.uint8)
    extra = onnx.ModelProto()
    onnx.helper.set_model_props(extra, {CARD_KEY: card_to_json(card)})
    # Two serialized messages one after the other are their union: no need to parse hundreds of megabytes of weights.
    metadata: bytes = extra.SerializeToString()
    outputs = ("logits",) if centres is None else ("logits", "alike")
    return trace(model, pictures, input_name="pictures", output_names=outputs) + metadata


def trace(model: nn.Module, example: Tensor, *, input_name: str, output_names: Sequence[str]) -> bytes:
    """Return a module in evaluation mode as an ONNX graph for any number of rows like those of the example [B, ...].

    Raises:
        ExportError: it does something that ONNX has no operator for.
    """
    content = io.BytesIO()
    rows = {name: {0: "batch"} for name in (input_name, *output_names)}
    with warnings.catch_warnings(), torch.inference_mode(), constant_padding():
        warnings.simplefilter("ignore")  # the exporter's of its own future, and the tracer's of sizes that are constant
        try:
            torch.onnx.export(
                model,
                (example,),
                cast(str, content),  # a file object is taken too, by this exporter
                dynamo=False,
                opset_version=OPSET,
                input_names=[input_name],
                output_names=list(output_names),
                dynamic_axes=rows,
            )
        except Exception as error:  # of the exporter, the tracer and the network itself
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"this network has no ONNX form ({type(error).__name__}: {reason})") from error
    return content.getvalue()
