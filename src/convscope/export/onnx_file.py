"""A trained network as one ONNX file: from uint8 pictures to logits, with all that is needed to use it inside.

Written by torch's exporter by tracing: it is deprecated, and its successor needs a further package and 2 to 15 times
as long (3.1 s instead of 0.45 for our default network, 6.5 s instead of 2.7 for EfficientNet-Lite0, imports included).
"""

from __future__ import annotations

import copy
import io
import warnings
from typing import cast

import onnx
import torch
from torch import Tensor, nn

from convscope.engine import CARD_KEY, ModelCard, card_to_json
from convscope.errors import ExportError
from convscope.models.blocks import InputShape

OPSET = 18
"""Version of ONNX's operators (2022); every ONNX Runtime since 1.14 has it."""


class WithPreprocessing(nn.Module):
    """A network that takes pictures as they are stored, uint8 [B, H, W, C], and normalizes them itself.

    Args:
        mean, std: of each channel in units of 0..1; input = (pixel / 255 - mean) / std.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        deviation = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        self.register_buffer("scale", (1 / (255 * deviation)).float())
        self.register_buffer("offset", (-torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1) / deviation).float())

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits [B, K]."""
        logits: Tensor = self.network(pictures.permute(0, 3, 1, 2).float() * self.scale + self.offset)
        return logits


def to_onnx(
    network: nn.Module, input_shape: InputShape, mean: tuple[float, ...], std: tuple[float, ...], card: ModelCard
) -> bytes:
    """Return the content of a model file; the network stays as it is.

    Raises:
        ExportError: the network does something that ONNX has no operator for.
    """
    channels, height, width = input_shape
    model = WithPreprocessing(copy.deepcopy(network).cpu(), mean, std).eval()
    pictures = torch.zeros(2, height, width, channels, dtype=torch.uint8)
    extra = onnx.ModelProto()
    onnx.helper.set_model_props(extra, {CARD_KEY: card_to_json(card)})
    # Two serialized messages one after the other are their union: no need to parse hundreds of megabytes of weights.
    metadata: bytes = extra.SerializeToString()
    return trace(model, pictures, input_name="pictures", output_name="logits") + metadata


def trace(model: nn.Module, example: Tensor, *, input_name: str, output_name: str) -> bytes:
    """Return a module in evaluation mode as an ONNX graph for any number of rows like those of the example [B, ...].

    Raises:
        ExportError: it does something that ONNX has no operator for.
    """
    content = io.BytesIO()
    rows = {input_name: {0: "batch"}, output_name: {0: "batch"}}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter's of its own future, and the tracer's of sizes that are constant
        try:
            torch.onnx.export(
                model,
                (example,),
                cast(str, content),  # a file object is taken too, by this exporter
                dynamo=False,
                opset_version=OPSET,
                input_names=[input_name],
                output_names=[output_name],
                dynamic_axes=rows,
            )
        except Exception as error:  # of the exporter, the tracer and the network itself
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"this network has no ONNX form ({type(error).__name__}: {reason})") from error
    return content.getvalue()
