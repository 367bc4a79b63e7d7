"""Train a small network and look inside: what it says of an image, where it looks, what its layers make of it.

    python examples/look_inside.py [PAGE.html]

Writes one HTML page. Needs no network. The same for a network with trained weights and a photo of your own:
`convscope inspect efficientnet_lite0 --image photo.jpg`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import convscope


def main(page: Path, *, epochs: int = 5) -> None:
    """Train, inspect, tell what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = convscope.train("mnist5k", model="cnn", epochs=epochs, out=run, report=False)
        inspected = convscope.inspect(run, out=page)
    print(f"accuracy {result.accuracy.value:.1%}; the first test image is called {inspected.label}")
    for each in inspected.topk:
        print(f"  {each['label']}: {each['probability']:.1%}")
    for layer in inspected.layers:
        print(f"  {layer['name']:4} {layer['kind']:12} gives {' x '.join(map(str, layer['output_shape']))}")
    print(f"feature maps, filters, Grad-CAM, confusions and more: {inspected.page}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("inside.html"))
