"""A trained network as one ONNX file that needs nothing else: from uint8 images to logits.

The tracing exporter of torch writes it. It is deprecated, but its successor needs a further package and takes 2 to 15
times as long: 3.1 s instead of 0.45 for our default network, 6.5 s instead of 2.7 for EfficientNet-Lite0, imports
included.
"""

import copy
import io
import warnings
from collections.abc import Sequence
from typing import cast

import onnx
import torch
from torch import Tensor, nn

from convscope.errors import ExportError
from convscope.inference.card import CARD_KEY, ModelCard, card_to_json
from convscope.inference.unknown import MIN_NORM, ClassMeans
from convscope.models.saved import SavedModel
from convscope.models.surgery.head import find_dense_head
from convscope.torch_internals import constant_padding, silent_exporter

OPSET = 18
"""Version of ONNX's operators, of 2022; ONNX Runtime has them since 1.14."""


class WithPreprocessing(nn.Module):
    """A network that takes stored images, uint8 [B, H, W, C], and normalizes them itself.

    Args:
        mean, std: of each channel in units of 0..1; input = (pixel / 255 - mean) / std.
        class_means: mean directions of the last layer's input, float32 [K, F] of length 1; None: no similarity.
    """

    scale: Tensor
    offset: Tensor
    class_means: Tensor | None

    def __init__(
        self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], class_means: ClassMeans | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("class_means", None if class_means is None else torch.from_numpy(class_means))
        self._features: Tensor | None = None
        head = find_dense_head(network)
        if head is not None and class_means is not None:
            head.register_forward_pre_hook(self._keep)
        self.network = network
        means, stds = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))
        self.register_buffer("scale", (1 / (255 * stds)).float())
        self.register_buffer("offset", (-means / stds).float())

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits [B, K]; with class means also the cosine similarity to the nearest one [B]."""
        logits: Tensor = self.network(images.permute(0, 3, 1, 2).float() * self.scale + self.offset)
        if self.class_means is None:
            return logits
        assert self._features is not None
        unit = self._features / self._features.norm(dim=1, keepdim=True).clamp(min=MIN_NORM)
        return logits, (unit @ self.class_means.T).amax(1)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0]


def to_onnx(saved: SavedModel, card: ModelCard, class_means: ClassMeans | None = None) -> bytes:
    """Return the content of a model file with the input `images` and the output `logits`.

    Args:
        class_means: of the card's rule; with them the file also has the output `similarity`.

    Raises:
        ExportError: ONNX has no operator for something in the network.
    """
    channels, height, width = saved.input_shape
    model = WithPreprocessing(copy.deepcopy(saved.network).cpu(), saved.mean, saved.std, class_means).eval()
    images = torch.zeros(2, height, width, channels, dtype=torch.uint8)
    extra = onnx.ModelProto()
    onnx.helper.set_model_props(extra, {CARD_KEY: card_to_json(card)})
    # Two serialized messages in a row are their union, so hundreds of megabytes of weights need no parsing.
    metadata: bytes = extra.SerializeToString()
    outputs = ("logits",) if class_means is None else ("logits", "similarity")
    return trace(model, images, input_name="images", output_names=outputs) + metadata


def trace(model: nn.Module, example: Tensor, *, input_name: str, output_names: Sequence[str]) -> bytes:
    """Return a module in evaluation mode as an ONNX graph; the batch size of the example [B, ...] does not matter.

    Raises:
        ExportError: ONNX has no operator for something in the module.
    """
    content = io.BytesIO()
    rows = {name: {0: "batch"} for name in (input_name, *output_names)}
    with warnings.catch_warnings(), torch.inference_mode(), constant_padding(), silent_exporter():
        warnings.simplefilter("ignore")  # of the exporter about its deprecation, of the tracer about constant sizes
        try:
            torch.onnx.export(
                model,
                (example,),
                cast(str, content),  # this exporter also takes a file object
                dynamo=False,
                opset_version=OPSET,
                input_names=[input_name],
                output_names=list(output_names),
                dynamic_axes=rows,
            )
        except Exception as error:  # by the exporter, the tracer or the network itself
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"this network has no ONNX form ({type(error).__name__}: {reason})") from error
    return content.getvalue()
