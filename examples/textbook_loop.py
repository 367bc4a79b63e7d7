"""What `convscope train` does, in plain torch: the same data, network and seed give the same weights, bit for bit.

    python examples/textbook_loop.py
    convscope train mnist5k --model cnn --epochs 2 --split 100/0/0 --threads 1

Only the data and the random numbers come from convscope: a seed for the weights, and the order of every epoch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from convscope.config import DataConfig
from convscope.data.load import load_images
from convscope.data.splits import make_splits
from convscope.seeds import derive_seed, permutation

EPOCHS, BATCH_SIZE, LR = 2, 64, 1e-3


def main(*, seed: int = 0, epochs: int = EPOCHS) -> nn.Module:
    """Train the network N3 on 4,000 digits, test it on 1,000 others, and return it."""
    torch.set_num_threads(1)
    config = DataConfig(source="mnist5k", split=(100.0, 0.0, 0.0))
    digits = load_images(config)
    splits = make_splits(digits, config)
    pixels, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    train_pixels, train_labels = pixels[splits.train], labels[splits.train]
    mean = train_pixels.double().mean() / 255
    std = (train_pixels.double().square().mean() - (255 * mean) ** 2).sqrt() / 255

    def normalize(x: torch.Tensor) -> torch.Tensor:
        return (x.permute(0, 3, 1, 2).float() - 255 * float(mean)) * (1 / (255 * float(std)))

    torch.manual_seed(derive_seed(seed, "weights"))
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR, fused=True)
    steps, done = epochs * -(-len(train_labels) // BATCH_SIZE), 0
    for epoch in range(1, epochs + 1):
        order = torch.from_numpy(permutation(len(train_labels), seed, "order", epoch))
        for batch in order.split(BATCH_SIZE):
            loss = F.cross_entropy(network(normalize(train_pixels[batch])), train_labels[batch])
            loss.backward()
            progress = (done + 0.5) / steps  # a one-cycle schedule: up for 30 % of the steps, then down to zero
            factor = 0.04 + 0.96 * progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7
            optimizer.param_groups[0]["lr"] = LR * factor
            optimizer.step()
            optimizer.zero_grad()
            done += 1
        print(f"epoch {epoch}: loss {float(loss.detach()):.4f} on the last batch")
    with torch.inference_mode():
        correct = network(normalize(pixels[splits.test])).argmax(1) == labels[splits.test]
    print(f"accuracy {correct.double().mean():.2%} of {len(correct):,} test images")
    return network


if __name__ == "__main__":
    main()
