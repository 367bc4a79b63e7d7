"""What tests share: small data sets and files made on the spot, the command line, pages in a browser."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import signal
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from convscope.cli import main
from convscope.config import ComputeConfig, DataConfig, ModelConfig, RunConfig, TrainConfig, config_to_json
from convscope.data.batches import (
    channel_statistics,
    make_preprocessing,
    make_resident,
)
from convscope.data.dataset import ImageSet
from convscope.data.decode.decode import Decoded, decode_rgb
from convscope.models import build_model
from convscope.progress import OnProgress, Progress
from convscope.results.run import accuracy_of
from convscope.storage.files import write_csv, write_json
from convscope.storage.run_folder import write_history
from convscope.storage.run_start import RUN_SCHEMA
from convscope.training.state import TrainingData

REFERENCE = Path(__file__).parents[1].parent / "shared" / "data"
"""Real data sets beside the checkout; tests that need them are skipped where it is absent."""


def make_image_set(
    counts: tuple[int, ...] = (30, 20, 10), *, side: int = 8, channels: int = 1, source_split: str = "", seed: int = 0
) -> ImageSet:
    """Return noise images, `counts[k]` of class k, with a bright square whose place tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    images = rng.integers(0, 100, (len(labels), side, side, channels), dtype=np.uint8)
    for index, label in enumerate(labels):
        images[index, label : label + 3, label : label + 3] = 255
    return ImageSet(
        name="made",
        images=images,
        labels=labels,
        class_names=tuple(f"class {k}" for k in range(len(counts))),
        ids=tuple(f"{i}.png" for i in range(len(labels))),
        source_splits=(source_split,) * len(labels),
    )


UNTIL_DRAWN = """() => new Promise((done, fail) => {
  const drawn = place => Bokeh.index[place.dataset.rootId]?.has_finished();
  const places = [...document.querySelectorAll('[data-root-id]')];
  const look = () => places.every(drawn) ? done() : requestAnimationFrame(look);
  setTimeout(() => fail('the charts were not drawn within 20 s'), 20000);
  look();
})"""


@dataclass(frozen=True)
class Opened:
    """A page whose charts are drawn, and what it complained about and asked for meanwhile."""

    page: Any
    problems: list[str]
    requests: list[str]


def open_page(browser: Any, file: Path, width: int) -> Opened:  # noqa: ANN401
    """Return an HTML file in a window of so many pixels; `requests` are those for anything but the file itself."""
    opened = Opened(browser.new_page(viewport={"width": width, "height": 800}), [], [])
    page, problems = opened.page, opened.problems
    page.on("console", lambda message: problems.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: problems.append(str(error)))

    def note(request: Any) -> None:  # noqa: ANN401
        if not request.url.startswith(("data:", file.as_uri())):
            opened.requests.append(request.url)

    page.on("request", note)
    page.goto(file.as_uri())
    page.evaluate(UNTIL_DRAWN)
    return opened


def stop_at(stage: str, number: signal.Signals = signal.SIGTERM) -> OnProgress:
    """Return a progress callback that sends this process a signal when a stage is first shown."""
    sent: list[str] = []

    def stop(progress: Progress) -> None:
        if progress.stage.startswith(stage) and not sent:
            sent.append(stage)
            signal.raise_signal(number)

    return stop


def run_convscope(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command line in this process; return exit code, stdout and stderr."""
    former = sys.argv
    sys.argv = ["convscope", *map(str, arguments)]
    try:
        main()
        code: int | str | None = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = former
    captured = capsys.readouterr()
    return int(code or 0), captured.out, captured.err


def write_folder(root: Path, side: int = 12) -> Path:
    """Write a small data set of PNG files, one bright square a class, in class folders."""
    images = make_image_set((30, 30, 30), side=side, channels=3)
    for image, label, name in zip(images.images, images.labels, images.ids, strict=True):
        folder = root / images.class_names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return root


N = 400


COMPUTED = {"threads", "device", "memory", "micro_batches"}
"""Options that say how to compute."""


def write_run(
    folder: Path,
    correct: np.ndarray,
    *,
    model: str = "mlp",
    stack: str | None = None,
    seed: int = 0,
    split: str = "ab",
    macs: int = 10**6,
    **options: object,
) -> Path:
    """Write the files of a finished run with these correct predictions; what it says of the others is "other"."""
    folder.mkdir(parents=True)
    config = RunConfig(
        data=DataConfig(source="made"),
        model=ModelConfig(name=model, stack=stack),
        train=TrainConfig(seed=seed, **{k: v for k, v in options.items() if k not in COMPUTED}),  # type: ignore[arg-type]
        compute=ComputeConfig(**{k: v for k, v in options.items() if k in COMPUTED}),  # type: ignore[arg-type]
    )
    write_json(
        folder / "run.json",
        {"schema": RUN_SCHEMA, "config": config_to_json(config), "data": {"fingerprint": "00"}},
    )
    accuracy = accuracy_of(correct=int(correct.sum()), n=len(correct))
    results = {"data": "made", "split": "test", "split_sha256": split, "num_params": 1000, "macs": macs}
    results |= {"train_seconds": 2.0 + seed, "peak_memory_bytes": 10**8, "accuracy": accuracy.__dict__}
    write_json(folder / "results.json", results)
    rows = [(f"{i}.png", "it", "it" if hit else "other", 0.5, 0.5, 0.7) for i, hit in enumerate(correct)]
    write_csv(folder / "predictions.csv", ("image", "true", "predicted", "p_true", "p_pred", "loss"), rows)
    write_history(folder, [])
    return folder


def draw(share: float, seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


HOSTILE = (
    "<script>alert(1)</script>",
    "a\"b'c",
    "\u202egnp.exe",
    "</script><img src=x onerror=document.title='owned'>",
    "$$\\frac{1}{2}$$",
    "{{ 7 * 7 }} @count{safe} $index",
    "x" * 200,
    "--><!--",
    "line\nbreak\x1b[31m",
    "שלום",
)


# ---------------------------------------------------------------- reading the page


@dataclass
class Page(HTMLParser):
    """What a reader of the page sees: elements, tables by title, captions, headings; and the raw scripts."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    _open: str = ""
    _text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"th", "td", "figcaption", "script", "h1", "h2", "h3", "p", "code"}:
            self._open, self._text = tag, ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        text = self._text
        if tag in {"th", "td"}:
            self.tables[-1][-1].append(text)
        elif tag == "figcaption":
            self.captions.append(text)
        elif tag == "script":
            self.scripts.append(text)
        elif tag in {"h1", "h2", "h3"}:
            self.headings.append((int(tag[1]), text))

    def table(self, *columns: str) -> list[list[str]]:
        found = [table[1:] for table in self.tables if table[0][: len(columns)] == list(columns)]
        assert found, f"no table with columns {columns}: {[t[0] for t in self.tables]}"
        return found[0]

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# ---------------------------------------------------------------- in a browser


def hover_values(page: Any, place: str, *, start: tuple[float, float], end: tuple[float, float]) -> set[str]:  # noqa: ANN401
    """Return what the tooltips say while the mouse crosses a chart, from one fraction of its size to another."""
    chart = page.locator(place)
    chart.scroll_into_view_if_needed()
    box, values = chart.bounding_box(), set()
    for step in np.linspace(0, 1, 17):
        x, y = (1 - step) * np.array(start) + step * np.array(end)
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        values.update(page.locator(".bk-tooltip-row-value").all_inner_texts())
    return {value.strip() for value in values}


def image(shade: int = 100, side: int = 8, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (shade, shade // 2, 255 - shade)).save(buffer, kind)
    return buffer.getvalue()


def make_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


LIMIT = 1_000_000


def smooth(height: int = 60, width: int = 80, seed: int = 0) -> NDArray[np.uint8]:
    """Return a smooth random RGB image, which JPEG keeps almost as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: NDArray[np.uint8] | Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """Return a PNG written by hand; `rows` holds the filter bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def decode(content: bytes, name: str = "a.jpg", *, max_pixels: int = LIMIT, allow_truncated: bool = False) -> Decoded:
    found = decode_rgb(content, name, max_pixels=max_pixels, allow_truncated=allow_truncated)
    assert isinstance(found, Decoded), found
    assert found.image.dtype == np.uint8
    assert found.image.ndim == 3
    assert found.image.shape[2] == 3
    return found


def close(image: NDArray[np.uint8], expected: object, tolerance: float) -> bool:
    return bool(np.abs(image.astype(float) - np.asarray(expected, float)).max() <= tolerance)


def huge_header(kind: str) -> bytes:
    """Return a file of a few hundred bytes that says it is 60000x60000 (WebP: as large as it can say)."""
    side = struct.pack(">HH", 60000, 60000)
    if kind == "JPEG":
        whole = encoded(np.zeros((8, 8), np.uint8), "JPEG")
        at = whole.index(b"\xff\xc0") + 5
        return whole[:at] + side + whole[at + 4 :]
    if kind == "PNG":
        return png(60000, 60000, 8, 2, bytes(100))
    if kind == "GIF":
        whole = encoded(np.zeros((8, 8), np.uint8), "GIF")
        return whole[:6] + struct.pack("<HH", 60000, 60000) + whole[10:]
    if kind == "BMP":
        whole = encoded(np.zeros((8, 8, 3), np.uint8), "BMP")
        return whole[:18] + struct.pack("<ii", 60000, 60000) + whole[26:]
    whole = encoded(Image.new("RGBA", (8, 8)), "WEBP", exif=b"Exif\0\0")  # Exif makes it the extended form
    at = whole.index(b"VP8X") + 12
    return whole[:at] + b"\xfe\xff\0" * 2 + whole[at + 6 :]


def exif_block(*entries: tuple[int, int, int, int], count: int | None = None) -> bytes:
    """Return an Exif block with these (tag, type, number of values, value) and perhaps a wrong count."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries) if count is None else count) + body + bytes(4)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.xz": lzma.compress,
    "tar.bz2": bz2.compress,
}


Members = list[tuple[str, bytes]]


def make_zip(members: Members, *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, content in members:
            made.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def make_tar(members: Members, *others: tarfile.TarInfo, format_: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as made:
        for name, content in members:
            made.addfile(regular(name, len(content)), io.BytesIO(content))
        for info in others:
            made.addfile(info)
    return buffer.getvalue()


def regular(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    if name.endswith("/"):
        info.type = tarfile.DIRTYPE
    return info


CPU = torch.device("cpu")


def training_data(validation: bool = True) -> TrainingData:
    images = make_image_set((40, 40, 40))
    order = np.random.default_rng(0).permutation(120)
    return TrainingData(
        train=make_resident(images, order[:90], CPU),
        validation=make_resident(images, order[90:], CPU) if validation else None,
        preprocessing=make_preprocessing(*channel_statistics(images.images), normalize=True),
        ids=tuple(images.ids[i] for i in order[:90]),
    )


def new_network() -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name="mlp"), (1, 8, 8), 3)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
