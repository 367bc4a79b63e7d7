"""Slips in training and evaluation that change a result, each measured on 1,000 test digits of mnist5k.

    python examples/slips.py dropout-at-test
    python examples/slips.py softmax-twice --seeds 5

docs/where-the-write-ups-err.md says where they were found.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import rotate
from torch import Tensor, nn

from convscope.config import DataConfig, ModelConfig
from convscope.data.load import load_images
from convscope.data.splits import make_splits
from convscope.models import build_model
from convscope.models.eval_mode import eval_mode
from convscope.models.stack.notation import build_stack, parse_stack

BATCH_SIZE, SHAPE = 64, (1, 28, 28)
STACKS = {
    "max-pooling": "conv 8 5x5; relu; max-pool 2; conv 16 5x5; relu; max-pool 2; linear 10",
    "stride, no pooling": "conv 8 5x5 /2; relu; conv 16 5x5 /2; relu; linear 10",
}
"""Of equal parameters."""
DEGREES = (0, 15, 30, 45, 90)

Digits = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training images [4000, 1, 28, 28] in 0..1 and their labels, then the 1,000 test images and theirs."""


def dropout_at_test(digits: Digits, seed: int, epochs: int) -> dict[str, float]:
    """Return accuracies of one trained network, in evaluation mode and with dropout left on."""
    network = train(build_model(ModelConfig(name="cnn-small"), SHAPE, 10), digits, seed, epochs)
    off = accuracy(network, digits)
    for layer in network.modules():
        layer.train(isinstance(layer, nn.Dropout2d))
    logits = torch.cat([network(x) for x in digits[2].split(BATCH_SIZE)])
    return {"dropout off at test": off, "dropout on at test": share_correct(logits, digits[3])}


def relu_on_logits(digits: Digits, seed: int, epochs: int) -> dict[str, float]:
    """Return accuracies of networks whose last layer is the dense one, or a ReLU after it."""
    found = {}
    for name, end in (("linear logits", nn.Identity()), ("ReLU on the logits", nn.ReLU())):
        torch.manual_seed(seed)
        network = nn.Sequential(build_model(ModelConfig(name="cnn-small"), SHAPE, 10), end)
        found[name] = accuracy(train(network, digits, seed, epochs), digits)
    return found


def softmax_twice(digits: Digits, seed: int, epochs: int) -> dict[str, float]:
    """Return accuracies of LeNet-5 whose logits, or whose probabilities, are given to cross-entropy."""
    found = {}
    for name, end in (("logits", nn.Identity()), ("softmax before cross-entropy", nn.Softmax(dim=1))):
        torch.manual_seed(seed)
        network = nn.Sequential(build_model(ModelConfig(name="lenet5"), SHAPE, 10), end)
        found[name] = accuracy(train(network, digits, seed, epochs, lr=0.004), digits)
    return found


def loss_over_images(digits: Digits, seed: int, epochs: int) -> dict[str, float]:
    """Return the test loss: the mean over the images, and the sum of the batches' means over their number."""
    network = train(build_model(ModelConfig(name="cnn-small"), SHAPE, 10), digits, seed, epochs)
    *_, x, labels = digits
    with eval_mode(network), torch.no_grad():
        logits = network(x)
    batches = zip(logits.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
    means = [float(F.cross_entropy(of_batch, wanted)) for of_batch, wanted in batches]
    loss = float(F.cross_entropy(logits, labels))
    return {"mean loss": loss, "batch means over images": sum(means) / len(labels)}


def rotation(digits: Digits, seed: int, epochs: int) -> dict[str, float]:
    """Return accuracies on test images turned by some degrees, with pooling and without."""
    found = {}
    for name, stack in STACKS.items():
        torch.manual_seed(seed)
        network = train(build_stack(parse_stack(stack), SHAPE), digits, seed, epochs)
        for degrees in DEGREES:
            turned = rotate(digits[2].numpy(), degrees, axes=(3, 2), reshape=False, order=1)
            found[f"{name}, {degrees} degrees"] = accuracy(network, (*digits[:2], torch.from_numpy(turned), digits[3]))
    return found


SLIPS: dict[str, Callable[[Digits, int, int], dict[str, float]]] = {
    "dropout-at-test": dropout_at_test,
    "relu-on-logits": relu_on_logits,
    "softmax-twice": softmax_twice,
    "loss-over-images": loss_over_images,
    "rotation": rotation,
}


@cache
def load_digits(images: int) -> Digits:
    """Return the digits of mnist5k, this many of them to train on."""
    config = DataConfig(source="mnist5k", split=(100.0, 0.0, 0.0))
    digits = load_images(config)
    splits = make_splits(digits, config)
    x, labels = torch.from_numpy(digits.images).permute(0, 3, 1, 2) / 255, torch.from_numpy(digits.labels)
    chosen = splits.train[:: max(1, len(splits.train) // images)]  # they are in the order of the classes
    return x[chosen], labels[chosen], x[splits.test], labels[splits.test]


def train(network: nn.Module, digits: Digits, seed: int, epochs: int, *, lr: float = 1e-3) -> nn.Module:
    """Return the network after some epochs of Adam, in batches of BATCH_SIZE."""
    x, labels, *_ = digits
    optimizer, order = torch.optim.Adam(network.parameters(), lr), torch.Generator().manual_seed(seed)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(BATCH_SIZE):
            optimizer.zero_grad()
            F.cross_entropy(network(x[batch]), labels[batch]).backward()
            optimizer.step()
    return network


def accuracy(network: nn.Module, digits: Digits) -> float:
    """Return the percentage of test images that are classified correctly, in evaluation mode."""
    with eval_mode(network), torch.no_grad():
        return share_correct(network(digits[2]), digits[3])


def share_correct(logits: Tensor, labels: Tensor) -> float:
    """Return the percentage of rows whose largest logit is that of the label."""
    return 100 * float((logits.argmax(1) == labels).double().mean())


def main(words: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Measure a slip with several seeds, print mean and standard deviation, and return the values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slip", choices=SLIPS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=4000, help="training images")
    options = parser.parse_args(words)
    digits, values = load_digits(options.images), dict[str, list[float]]()
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        for name, value in SLIPS[options.slip](digits, seed, options.epochs).items():
            values.setdefault(name, []).append(value)
    for name, of_seeds in values.items():
        spread = f" ± {np.std(of_seeds, ddof=1):.3g}" if len(of_seeds) > 1 else ""
        print(f"{name:36}{np.mean(of_seeds):.4g}{spread}  ({len(of_seeds)} seeds, {len(digits[3]):,} test images)")
    return values


if __name__ == "__main__":
    main()
