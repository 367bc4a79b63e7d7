"""The proof that a model file says what its network says, on real pictures, from their bytes on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.config import MAX_PIXELS
from convscope.data.batches import Preprocessing, input_bytes, make_resident
from convscope.data.image_set import ImageSet
from convscope.data.intake import Decoded, Entry, fit_entry
from convscope.engine import Engine, rows_at_once, softmax
from convscope.errors import ExportError
from convscope.evaluation.predict import predict_logits
from convscope.processors import map_slices
from convscope.results import Certificate

PICTURES = 100
"""Pictures that are compared, at most."""
BATCH_SIZE = 8
"""Of torch: on a CPU it takes 26 to 31 ms for a photo with EfficientNet-Lite0, at 32 pictures 39."""


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
    """Return how far the probabilities of a model file are from those of torch.

    torch is given the pictures of the data set. The engine reads the same ones anew from the bytes of their files,
    through all that a prediction goes through; where the data are not in files it takes them from the data set too.

    Args:
        network: on the device.
        engine: of one thread; each processor reads and classifies its own pictures.
        indices: which pictures, at least one.
        contents: picture id -> bytes of its file; the pictures without any are left out unless there are none at all.
        most_at_once: so many at most go through the network at a time.

    Raises:
        ExportError: ONNX Runtime cannot run the graph, or a picture that training read cannot be read any more.
    """
    chosen = np.array([i for i in indices if images.ids[i] in contents], np.int64) if contents else indices

    def classify(part: slice) -> NDArray[np.float32]:
        batch = chosen[part]
        pictures = [_read_anew(engine, images.ids[i], contents) if contents else images.images[i] for i in batch]
        try:
            return engine.logits(np.stack(pictures))
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
        pictures=len(chosen),
        from_files=bool(contents),
        largest_difference=float(np.abs(found - expected).max()),
        changed=tuple(images.ids[chosen[i]] for i in changed),
    )


def _read_anew(engine: Engine, picture_id: str, contents: Mapping[str, bytes]) -> NDArray[np.uint8]:
    content = contents[picture_id]
    entry = Entry(picture_id, len(content), lambda: content)
    found = fit_entry(entry, engine.card.fit, max_pixels=MAX_PIXELS, allow_truncated=True)
    if not isinstance(found, Decoded):
        raise ExportError(f"{found.file} has changed since training: {found.reason}")
    return found.image
