"""One pass over class folders of photos as a course script makes it: ImageFolder, transforms, a DataLoader.

Prints one JSON object: seconds of a whole pass (making the data set, then every batch), number of images, and their
mean. The images are decoded afresh in every pass; a first one has put the files into the page cache.
"""

from __future__ import annotations

import argparse
import json
import time

from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    size = options.image_size
    transform = transforms.Compose(
        [
            transforms.Resize(size),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    data = datasets.ImageFolder(options.folder, transform)
    count, total = 0, 0.0
    for x, y in DataLoader(data, batch_size=32, shuffle=True, num_workers=options.workers):
        count += len(y)
        total += float(x[:, :, size // 2, size // 2].sum())
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "count": count, "mean": total / (3 * count)}))


if __name__ == "__main__":
    main()
