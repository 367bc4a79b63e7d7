"""Experiments that train a few networks and compare their test accuracy: each a question and its networks."""

from functools import partial
from typing import Any

from convscope.experiments.equal_cost import layer_costs, match_macs
from convscope.experiments.trials import Networks, Trials, make_variant
from convscope.experiments.variants import variants_lab
from convscope.results.panels import Panel, Table

SMALL = "conv 8 5x5 same; relu; max-pool 2; conv 16 5x5 same; relu; max-pool 2; linear 10"


def _filled(stack: str, blanks: dict[str, tuple[str, ...]]) -> Networks:
    """Return networks that differ in what stands in place of the braces of a stack."""
    return {name: stack.format(*layers) for name, layers in blanks.items()}


# ---------------------------------------------------------------- pooling, padding and stride

POOLING = variants_lab(
    "Which pooling: max, average, min, overlapping or global?",
    "Each pale dot is one network; where the intervals are far apart, the kind of pooling matters.",
    _filled(
        "conv 8 5x5 same; batch-norm; relu; {}; conv 16 5x5 same; batch-norm; relu; {}; linear 10",
        {
            "max": ("max-pool 2", "max-pool 2"),
            "overlapping max": ("max-pool 3 /2 same", "max-pool 3 /2 same"),
            "average": ("average-pool 2", "average-pool 2"),
            "min": ("min-pool 2", "min-pool 2"),
            "max and global average": ("max-pool 2", "global-pool"),  # after it the last layer is smaller
            "max and global max": ("max-pool 2", "global-pool max"),
        },
    ),
    seeds=9,
    spoken="{} pooling",
)


def output_sizes(trials: Trials) -> tuple[Panel, ...]:
    """Return the shape of every layer's output, computed by passing an image through the network."""
    budgets = [layer_costs(of_seeds[0].run.config) for of_seeds in trials.values()]
    shapes = [{layer.name: layer.output_shape or () for layer in budget.layers} for budget in budgets]
    layers = [name for name in shapes[0] if not name.startswith("relu")]
    rows = [(name, *(" × ".join(map(str, of_one.get(name, ()))) for of_one in shapes)) for name in layers]
    side = " × ".join(map(str, budgets[0].input_shape))
    return (Table("Size of each layer's output", ("layer", *trials), (("image", *[side] * len(shapes)), *rows)),)


PADDING = variants_lab(
    "Which padding: valid, same or full? And how large are the feature maps?",
    "A 5x5 convolution removes 4 pixels (valid), keeps the size (same) or adds 4 (full); the table gives every size.",
    _filled(  # the larger the feature maps, the larger the last layer
        "conv 8 5x5 {0}; relu; max-pool 2; conv 16 5x5 {0}; relu; max-pool 2; linear 10",
        {padding: (padding,) for padding in ("valid", "same", "full")},
    ),
    extra=output_sizes,
    spoken="{} padding",
)


def strided(channels: int) -> str:
    """Return SMALL with strides instead of pooling."""
    return f"conv {channels} 5x5 /2 same; relu; conv {2 * channels} 5x5 /2 same; relu; linear 10"


STRIDE = variants_lab(
    "Max-pooling or a strided convolution, at equal stride?",
    "A strided convolution computes only every second place of each row and column, which saves three quarters of the "
    "operations; the third row spends them on more channels.",
    {
        "max-pooling": SMALL,
        "strided convolution": strided(8),
        "strided, as many MACs": partial(match_macs, strided, SMALL),
        "a 2x2 convolution for each pool": "conv 8 5x5 same; relu; conv 8 2x2 /2; relu; conv 16 5x5 same; relu; "
        "conv 16 2x2 /2; relu; linear 10",
    },
)

# ---------------------------------------------------------------- normalization and dropout

LOW, HIGH = 0.003, 0.06
"""Learning rates: a usual one for Adam, and twenty times that."""
CONVOLUTIONS = (
    "conv 8 3x3 same; {0}relu; max-pool 2; conv 16 3x3 same; {0}relu; max-pool 2; "
    "conv 16 3x3 same; {0}relu; conv 16 3x3 same; {0}relu; linear 10"
)

BATCH_NORM = variants_lab(
    "What does batch normalization change, at a low and at a high learning rate?",
    "Each learning rate has one row without and one with it; the curves below show the training.",
    [
        make_variant(f"{name}, lr {lr:g}", CONVOLUTIONS.format(norm), lr=lr)
        for lr in (LOW, HIGH)
        for name, norm in (("without", ""), ("with", "batch-norm; "))
    ],
    pairs=tuple((f"without, lr {lr:g}", f"with, lr {lr:g}") for lr in (LOW, HIGH)),
    spoken="a network {}",
)

LRN = variants_lab(
    "Does local response normalization help, and how does it compare with batch normalization?",
    "The second row adds AlexNet's normalization to the first; the third has its successor.",
    _filled(
        "conv 8 5x5 same; relu; {0}max-pool 2; conv 16 5x5 same; relu; {0}max-pool 2; linear 10",
        {"no normalization": ("",), "local response norm": ("lrn 5; ",), "batch norm": ("batch-norm; ",)},
    ),
)

OPTIMIZERS: dict[str, dict[str, Any]] = {"SGD": {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9}, "Adam": {}}

NORMALIZE = variants_lab(
    "Does it help to normalize the images?",
    "Each optimizer has one row with pixels divided by 255, and one with mean 0 and standard deviation 1.",
    [
        make_variant(f"{name}, {optimizer}", SMALL, normalize=on, **settings)
        for optimizer, settings in OPTIMIZERS.items()
        for name, on in (("pixels 0..1", False), ("normalized", True))
    ],
    pairs=tuple((f"pixels 0..1, {optimizer}", f"normalized, {optimizer}") for optimizer in OPTIMIZERS),
)

DROPOUT = variants_lab(
    "What does dropout change, of single values and of whole feature maps?",
    "Dropout makes training harder on purpose: the curves rise more slowly, and what counts is where they end.",
    _filled(
        "conv 8 5x5; relu; max-pool 2; conv 16 5x5; relu; {}max-pool 2; linear 64; relu; {}linear 10",
        {
            "no dropout": ("", ""),
            "dropout 0.5 of values": ("", "dropout 0.5; "),
            "dropout2d 0.2 of feature maps": ("dropout2d 0.2; ", ""),
            "both": ("dropout2d 0.2; ", "dropout 0.5; "),
        },
    ),
    epochs=18,
)

# ---------------------------------------------------------------- architectures

ALEXNET = variants_lab(
    "Which parts of AlexNet matter: ReLU, local response normalization, overlapping pooling, dropout?",
    "Each row but the first removes one component; all networks have the same parameters and operations.",
    _filled(  # as in AlexNet, the first convolution has a stride
        "conv 12 5x5 /2 same; {0}; {1}{2}; conv 24 3x3 same; {0}; {1}{2}; conv 24 3x3 same; {0}; "
        "linear 64; {0}; {3}linear 10",
        {
            "all parts": ("relu", "lrn 5; ", "max-pool 3 /2 same", "dropout 0.5; "),
            "tanh for ReLU": ("tanh", "lrn 5; ", "max-pool 3 /2 same", "dropout 0.5; "),
            "no local response norm": ("relu", "", "max-pool 3 /2 same", "dropout 0.5; "),
            "pools that do not overlap": ("relu", "lrn 5; ", "max-pool 2 same", "dropout 0.5; "),
            "no dropout": ("relu", "lrn 5; ", "max-pool 3 /2 same", ""),
        },
    ),
    epochs=14,
    seeds=8,
    spoken="“{}”",
)

INCEPTION_STACK = "conv 8 5x5 /2 same; batch-norm; relu; inception 24; max-pool 2; inception 32; global-pool; linear 10"


def without_inception(kernel: str, channels: int) -> str:
    """Return the network with a plain convolution for each block, the second a third wider."""
    first, second = (f"conv {n} {kernel} same; batch-norm; relu" for n in (channels, channels + channels // 3))
    return f"conv 8 5x5 /2 same; batch-norm; relu; {first}; max-pool 2; {second}; global-pool; linear 10"


INCEPTION = variants_lab(
    "Is GoogLeNet's inception block better than plain convolutions that cost the same?",
    "All networks need about the same number of operations; they differ in how they spend them.",
    {
        "inception": INCEPTION_STACK,
        "3x3 convolutions": partial(match_macs, partial(without_inception, "3x3"), INCEPTION_STACK),
        "5x5 convolutions": partial(match_macs, partial(without_inception, "5x5"), INCEPTION_STACK),
    },
)

BLOCKS = {"plain": "conv 8 3x3 same; batch-norm; relu; conv 8 3x3 same; batch-norm; relu; ", "residual": "residual 8; "}
"""Two convolutions each. The shortcut costs neither parameters nor MACs.

A stack's convolutions have a bias before batch norm, where it does nothing; those of the residual block have none.
"""
DEPTHS = (2, 12)
"""Blocks of a network."""

RESIDUAL = variants_lab(
    "What do ResNet's shortcuts give, in a shallow and in a deep network?",
    "At each depth one row has shortcuts and one has none; operations are equal, and parameters too but for biases "
    "without effect.",
    _filled(
        "conv 8 3x3 /2 same; batch-norm; relu; {}max-pool 2; linear 10",
        {f"{kind}, {2 * n} convolutions": (block * n,) for n in DEPTHS for kind, block in BLOCKS.items()},
    ),
    seeds=8,
    pairs=tuple((f"plain, {2 * n} convolutions", f"residual, {2 * n} convolutions") for n in DEPTHS),
)


def conv_units(kind: str, channels: int, block: str = "") -> list[str]:
    """Return three convolutions with batch norm and ReLU, the last two twice as wide, each followed by a block."""
    return [f"{kind} {n} 3x3 same; batch-norm; relu; {block}" for n in (channels, 2 * channels, 2 * channels)]


def excited(block: str, channels: int) -> str:
    """Return three convolutions with batch norm, each followed by the block."""
    first, second, third = conv_units("conv", channels, block)
    return f"{first}max-pool 2; {second}max-pool 2; {third}global-pool; linear 10"


SQUEEZE_EXCITATION = variants_lab(
    "Does SENet's squeeze-and-excitation help at equal cost?",
    "The block weights each feature map by a number between 0 and 1; it adds few parameters and hardly any operations.",
    {  # the plain network may be a little wider
        "plain": partial(match_macs, partial(excited, ""), excited("se 4; ", 8)),
        "squeeze-and-excitation": excited("se 4; ", 8),
    },
    seeds=20,
)


def separable(kind: str, channels: int) -> str:
    """Return a plain convolution and three of this kind, with batch norm."""
    first, second, third = conv_units(kind, channels)
    return f"conv 8 3x3 /2 same; batch-norm; relu; {first}max-pool 2; {second}{third}global-pool; linear 10"


SEPARABLE = variants_lab(
    "Is a depthwise separable convolution, as in Xception, better than a plain one?",
    "The second row needs far fewer operations than the first; the third needs as many, with wider layers.",
    {
        "plain": separable("conv", 16),
        "separable, as many feature maps": separable("separable", 16),
        "separable, as many MACs": partial(match_macs, partial(separable, "separable"), separable("conv", 16)),
    },
)
