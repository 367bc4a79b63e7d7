"""Which padding, and how large is what comes out?"""

from __future__ import annotations

from collections.abc import Sequence

from convscope.budget.memory import predict_memory
from convscope.lab.equal_cost import INPUT_SHAPE, NUM_CLASSES
from convscope.lab.trials import Variant, make_variant
from convscope.lab.variants import variants_lab
from convscope.models import build_shapes
from convscope.results import Panel, Table

NETWORK = "conv 8 5x5 {0}; relu; max-pool 2; conv 16 5x5 {0}; relu; max-pool 2; linear 10"


def variants() -> list[Variant]:
    """Return one network with three kinds of padding; the larger its maps, the larger its last layer."""
    return [make_variant(padding, NETWORK.format(padding)) for padding in ("valid", "same", "full")]


def sizes(made: Sequence[Variant]) -> tuple[Panel, ...]:
    """Return how large the output of every layer is, as seen when a picture goes through it."""
    shapes = []
    for variant in made:
        network = build_shapes(variant.config.model, INPUT_SHAPE, NUM_CLASSES)
        budget = predict_memory(network, INPUT_SHAPE, batch_size=1, train=variant.config.train)
        shapes.append({layer.name: layer.output_shape or () for layer in budget.layers})
    layers = [name for name in shapes[0] if not name.startswith("relu")]
    rows = [(name, *(" × ".join(map(str, of_one.get(name, ()))) for of_one in shapes)) for name in layers]
    side = " × ".join(map(str, INPUT_SHAPE))
    return (
        Table("Size of each layer's output", ("layer", *(v.name for v in made)), (("picture", *[side] * 3), *rows)),
    )


LAB = variants_lab(
    "Which padding: valid, same or full? And how large are the maps?",
    "A 5x5 convolution takes 4 pixels away (valid), none (same), or adds 4 (full); the table gives every size.",
    variants,
    extra=sizes,
    spoken="{} padding",
)
