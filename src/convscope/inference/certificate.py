"""The comparison of a model file with its network on real images, starting from the bytes of their files."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.config import MAX_PIXELS
from convscope.cpu import map_slices
from convscope.data.batches import Preprocessing, input_bytes, make_resident
from convscope.data.dataset import ImageSet
from convscope.data.decode.decode import Decoded, resize_entry
from convscope.data.decode.files import Entry
from convscope.errors import ExportError
from convscope.evaluation.predict import predict_logits
from convscope.inference.engine import Engine, rows_at_once
from convscope.inference.unknown import softmax
from convscope.results.run import Certificate

IMAGES = 100
"""Images compared, at most."""
BATCH_SIZE = 8
"""Images that torch classifies at a time: a CPU takes 26 to 31 ms for a photo with EfficientNet-Lite0; 39 ms at 32."""


def compare(
    network: torch.nn.Module,
    preprocessing: Preprocessing,
    device: torch.device,
    engine: Engine,
    images: ImageSet,
    indices: NDArray[np.int64],
    contents: Mapping[str, bytes],
    most_at_once: int | None = None,
) -> Certificate:
    """Return how much the probabilities of a model file differ from torch's.

    torch gets the images of the data set. The engine reads the same images again from the bytes of their files, with
    every step of a prediction; data that are not in files come from the data set for both.

    Args:
        network: on the device.
        engine: with one thread; each core reads and classifies its own images.
        indices: images to compare, at least one.
        contents: image id -> bytes of its file; images without bytes are left out, unless none has any.
        most_at_once: images that may go through the network at a time.

    Raises:
        ExportError: ONNX Runtime cannot run the graph, or an image that training read is no longer readable.
    """
    chosen = np.array([i for i in indices if images.ids[i] in contents], np.int64) if contents else indices

    def classify(rows: slice) -> NDArray[np.float32]:
        batch = chosen[rows]
        pixels = [_read_again(engine, images.ids[i], contents) if contents else images.images[i] for i in batch]
        try:
            return engine.logits(np.stack(pixels))
        except Exception as error:  # of ONNX Runtime's own classes, which have no common base
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"ONNX Runtime cannot run this network ({reason})") from error

    resident = make_resident(images, chosen, device)
    found = softmax(np.concatenate(map_slices(classify, len(chosen), size=rows_at_once(input_bytes(resident)))))
    most = min(BATCH_SIZE, most_at_once or BATCH_SIZE)
    logits = predict_logits(network, resident, preprocessing, most_at_once=most)
    expected = softmax(logits.cpu().numpy())
    changed = np.flatnonzero(found.argmax(axis=1) != expected.argmax(axis=1))
    return Certificate(
        images=len(chosen),
        from_files=bool(contents),
        largest_difference=float(np.abs(found - expected).max()),
        changed=tuple(images.ids[chosen[i]] for i in changed),
    )


def _read_again(engine: Engine, image_id: str, contents: Mapping[str, bytes]) -> NDArray[np.uint8]:
    content = contents[image_id]
    entry = Entry(image_id, len(content), lambda: content)
    found = resize_entry(entry, engine.card.fit, max_pixels=MAX_PIXELS, allow_truncated=True)
    if not isinstance(found, Decoded):
        raise ExportError(f"{found.file} has changed since training: {found.reason}")
    return found.image
