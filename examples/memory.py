"""See what training a network takes before training it, and what helps where it is too much.

    python examples/memory.py

Nothing is trained: a step is followed on tensors without content. docs/memory.md explains the figures.
"""

from __future__ import annotations

import convscope

NETWORK = "conv 100 3x3 /2 pad 1; conv 200 3x3 /2 pad 1; conv 400 3x3 /2 pad 1"
IMAGES = (3, 200, 300)
BATCH = 50


def main() -> None:
    """Print the memory of three convolutions layer by layer, and what less costs."""
    budget = convscope.budget(stack=NETWORK, input_shape=IMAGES, batch_size=BATCH)
    for layer in [layer for layer in budget.layers if layer.num_params]:
        print(f"{layer.arithmetic:32} parameters, {layer.output_bytes / 1e6:4.0f} MB of maps for {BATCH} images")
    print(f"{budget.num_params:,} parameters, {budget.memory.weights_bytes / 1e6:.1f} MB")
    peak = budget.memory.training_peak_bytes
    print(f"a step of training takes {peak / 1e6:.0f} MB; with")
    _, height, width = IMAGES
    remedies = {
        "batches of 10, five of them added up": {"batch_size": BATCH // 5, "accumulate": 5},
        "images of half the size": {"input_shape": (3, height // 2, width // 2)},
        "plain SGD in place of Adam": {"optimizer": "sgd", "momentum": 0.0},
        "all but the last layer frozen": {"frozen": True},
    }
    for name, change in remedies.items():
        options = {"input_shape": IMAGES, "batch_size": BATCH} | change
        less = convscope.budget(stack=NETWORK, **options)
        print(f"  {name:38} {less.memory.training_peak_bytes / 1e6:4.0f} MB")


if __name__ == "__main__":
    main()
