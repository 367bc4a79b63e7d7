"""Transfer learning: what is frozen stays as it is, what is cached is what the network gives, what learns learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convscope
from convscope.config import ComputeConfig, ModelConfig, TrainConfig
from convscope.data.batches import channel_statistics, make_preprocessing
from convscope.data.dataset import ImageSet
from convscope.data.splits import Splits
from convscope.errors import Interrupted, RunError, UsageError
from convscope.evaluation.predict import Floats, Forward, torch_forward
from convscope.inference.fast_forward import fastest_forward
from convscope.inference.model_file import CERTIFICATE_FILE
from convscope.models import build_model, build_shapes
from convscope.models.saved import load_model
from convscope.models.surgery.head import SquareRootLinear, set_square_root_head
from convscope.models.surgery.stages import Frozen, find_freezable, split_stages
from convscope.progress import ignore_progress
from convscope.storage.files import read_json
from convscope.training.features import extract_features
from convscope.training.loop import TrainResult
from convscope.training.transfer import Transfer, train_transfer
from tests.support import make_image_set, stop_at

CPU = torch.device("cpu")


def new_network() -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    network = nn.Sequential(*first, *second, nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 3))
    network(torch.rand(64, 1, 8, 8))  # batch norm has seen something
    return network.eval()


class Counter:
    """Counts the images that go through the frozen part."""

    def __init__(self, engine: str = "counted") -> None:
        self.images, self.engine = 0, engine

    def forward_of(self, module: nn.Module) -> Forward:
        forward = torch_forward(module, CPU)

        def counted(x: Floats) -> Floats:
            self.images += len(x)
            return forward.run(x)

        return Forward(counted, self.engine)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def sources(counter: Counter | None = None) -> Transfer:
    """Return all that transfer learning is given; `fit` fills in how and where to train."""
    images = make_image_set((40, 40, 40))
    order = np.random.default_rng(0).permutation(120)
    splits = Splits(np.sort(order[:70]), np.sort(order[70:95]), np.sort(order[95:]), order)
    return Transfer(
        images=images,
        splits=splits,
        preprocessing=make_preprocessing(*channel_statistics(images.images), normalize=True),
        device=CPU,
        forward_of=(counter or Counter()).forward_of,
        config=TrainConfig(),
        compute=ComputeConfig(),
        run=Path(),
        on_progress=ignore_progress,
    )


def logits_of(network: nn.Module, given: Transfer, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        return network(given.preprocessing.apply(torch.from_numpy(given.images.images[indices])))


def fit(
    network: nn.Module,
    given: Transfer,
    config: TrainConfig,
    run: Path,
    *,
    resume: bool = False,
    **more: Any,  # noqa: ANN401
) -> tuple[TrainResult, Floats]:
    """Return how training went, and the logits of the test images."""
    run.mkdir(exist_ok=True)
    result, outputs = train_transfer(network, replace(given, config=config, run=run, **more), resume=resume)
    return result, outputs(given.splits.test)[0].logits


@pytest.mark.parametrize("head", ["linear", "square-root"])
def test_only_the_head_changes_and_the_logits_are_those_of_the_whole_network(tmp_path: Path, head: str) -> None:
    network, given = new_network(), sources()
    if head == "square-root":
        set_square_root_head(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result, logits = fit(network, given, TrainConfig(freeze=True), tmp_path / "run")
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"10.weight", "10.bias"}
    assert torch.allclose(torch.from_numpy(logits), logits_of(network, given, given.splits.test), atol=1e-4)
    assert [record.epoch for record in result.history] == [1]
    test_labels = torch.from_numpy(given.images.labels[given.splits.test])
    assert (torch.from_numpy(logits).argmax(1) == test_labels).double().mean() > 0.9


def test_a_square_root_head_multiplies_roots() -> None:
    plain, rooted = new_network(), set_square_root_head(new_network())
    x = torch.rand(5, 1, 8, 8)
    features = plain[:-1](x)
    expected = plain[-1](features.sign() * features.abs().sqrt())
    assert torch.allclose(rooted(x), expected, atol=2e-3)
    assert plain.state_dict().keys() == rooted.state_dict().keys()
    below_zero = SquareRootLinear(1, 1)
    around_zero = below_zero(torch.tensor([[-4.0], [0.0], [4.0]])).sum().item()
    assert around_zero == pytest.approx(3 * below_zero.bias.item(), abs=1e-5)
    learning = torch.zeros(2, 1, requires_grad=True)
    below_zero(learning).sum().backward()
    assert learning.grad is not None
    assert torch.isfinite(learning.grad).all()


def test_a_run_with_a_square_root_head_comes_back_whole(tmp_path: Path) -> None:
    made = convscope.train(
        "mnist5k", model="cnn", freeze=True, head="square-root", per_class=20, out=tmp_path / "run", report=False
    )
    saved = load_model(Path(made.run))
    assert saved.head == "square-root"
    assert isinstance(saved.network[-1], SquareRootLinear)  # type: ignore[index]
    assert convscope.evaluate(made.run).metrics.accuracy == made.metrics.accuracy
    certificate = read_json(Path(made.run) / CERTIFICATE_FILE)
    assert certificate["changed"] == []
    assert build_shapes(ModelConfig(name="resnet18", head="square-root"), (3, 64, 64), 2).fc.in_features == 512
    with pytest.raises(UsageError, match=r"unknown head 'sqare-root'.*square-root"):
        ModelConfig(head="sqare-root")  # type: ignore[arg-type]


def test_features_are_computed_once_and_again_when_anything_changes(tmp_path: Path) -> None:
    counter, config = Counter(), TrainConfig(freeze=True)
    given = sources(counter)
    _, first = fit(new_network(), given, config, tmp_path / "a")
    assert counter.images == 120
    _, second = fit(new_network(), given, config, tmp_path / "b")
    assert counter.images == 120
    assert np.array_equal(first, second)
    other = new_network()
    with torch.no_grad():
        other[1].running_mean += 0.1  # type: ignore[operator]
    fit(other, given, config, tmp_path / "c")
    assert counter.images == 240
    fit(new_network(), given, TrainConfig(freeze=True, augment=("flip",), augmented_copies=2), tmp_path / "d")
    assert counter.images == 240 + 2 * 70
    another = Counter("another engine")
    fit(new_network(), sources(another), config, tmp_path / "e")
    assert another.images == 120


@pytest.mark.parametrize("kept", [0, 5, 127, 128, 1000, -1])
def test_features_cut_short_in_the_cache_are_computed_again(tmp_path: Path, kept: int) -> None:
    counter, config = Counter(), TrainConfig(freeze=True)
    _, first = fit(new_network(), sources(counter), config, tmp_path / "a")
    (cached,) = (tmp_path / "cache").rglob("*.npy")
    content = cached.read_bytes()
    cached.write_bytes(content[:kept])
    _, second = fit(new_network(), sources(counter), config, tmp_path / "b")
    assert counter.images == 240
    assert np.array_equal(first, second)
    assert cached.read_bytes() == content


def test_a_flipped_feature_in_the_cache_is_computed_again(tmp_path: Path) -> None:
    counter, config = Counter(), TrainConfig(freeze=True)
    _, first = fit(new_network(), sources(counter), config, tmp_path / "a")
    (cached,) = (tmp_path / "cache").rglob("*.npy")
    content = bytearray(cached.read_bytes())
    content[len(content) // 2] ^= 1
    cached.write_bytes(content)
    _, second = fit(new_network(), sources(counter), config, tmp_path / "b")
    assert counter.images == 240
    assert np.array_equal(first, second)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    _, logits = fit(new_network(), sources(), TrainConfig(freeze=True), tmp_path / "run")
    assert np.isfinite(logits).all()


def test_augmented_copies_differ_and_depend_on_nothing_but_their_words() -> None:
    given = sources()
    forward = torch_forward(new_network()[:5], CPU)

    def copy(number: int, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
        values = extract_features(
            forward,
            given.images.images,
            indices,
            given.preprocessing,
            augment=("crop", "flip"),
            words=(0, "view", number),
            cache_key=None,
            on_progress=ignore_progress,
        )
        assert values is not None
        return torch.from_numpy(values)

    everything, some = np.arange(120), np.array([3, 50, 77])
    assert not torch.equal(copy(0, everything), copy(1, everything))
    assert torch.allclose(copy(0, everything)[some], copy(0, some), atol=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("stages", [5, 9])
def test_the_fastest_engine_gives_what_torch_gives(stages: int, threads: int) -> None:
    part = new_network()[:stages]
    fast, plain = fastest_forward(part, CPU, threads=threads), torch_forward(part, CPU)
    assert "onnxruntime" in fast.engine
    x = np.random.default_rng(0).normal(size=(150, 1, 8, 8)).astype(np.float32)
    for n in (150, 1):  # more than a thread takes at a time, and fewer than there are threads
        assert np.allclose(fast.run(x[:n]), plain.run(x[:n]), atol=1e-5)


def test_what_has_no_onnx_form_runs_by_torch() -> None:
    class Sorted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x)

    x = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    expected = np.linalg.svd(x, compute_uv=False)
    assert np.allclose(fastest_forward(Sorted(), CPU).run(x), expected, atol=1e-5)


@pytest.mark.parametrize("augment", [(), ("flip",)])
def test_unfrozen_stages_learn_and_the_others_stay(tmp_path: Path, augment: tuple[str, ...]) -> None:
    network, given = new_network(), sources()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    config = TrainConfig(
        freeze=True, epochs=4, unfreeze_at=2, unfreeze=("4", "5"), unfreeze_lr=0.003, batch_size=16, augment=augment
    )
    result, logits = fit(network, given, config, tmp_path / "run")
    changed = {
        name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"4", "5", "10"}
    assert torch.equal(network.state_dict()["5.running_mean"], before["5.running_mean"])  # what the head was fitted to
    assert torch.allclose(torch.from_numpy(logits), logits_of(network, given, given.splits.test), atol=1e-4)
    assert [record.epoch for record in result.history] == [1, 2, 3, 4]
    best = max(result.history, key=lambda record: (record.validation_accuracy, -(record.validation_loss or 0)))
    assert result.best_epoch == best.epoch


@pytest.mark.parametrize("unfreeze_at", [1, 2])
def test_features_that_are_not_kept_change_nothing_that_is_learned(tmp_path: Path, unfreeze_at: int) -> None:
    """Under a memory limit the frozen part runs in every epoch, on the augmented copies that are kept otherwise."""
    config = TrainConfig(
        freeze=True, epochs=4, unfreeze_at=unfreeze_at, unfreeze=("4",), batch_size=16, augment=("flip", "crop")
    )
    config = replace(config, augmented_copies=2, optimizer="sgd")
    kept, computed = new_network(), new_network()
    counter, other = Counter(), Counter()
    expected, logits = fit(kept, sources(counter), config, tmp_path / "kept")
    limited = ComputeConfig(memory=2**40)
    result, others = fit(computed, sources(other), config, tmp_path / "computed", compute=limited)
    assert counter.images > other.images
    for mine, its in zip(computed.parameters(), kept.parameters(), strict=True):
        assert torch.allclose(mine, its, atol=1e-5)
    assert np.allclose(logits, others, atol=1e-4)
    for ours, theirs in zip(result.history, expected.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-5)


def test_a_checkpoint_of_another_network_is_refused_in_words(tmp_path: Path) -> None:
    config = TrainConfig(freeze=True, epochs=2, unfreeze_at=1, unfreeze=("4",), batch_size=16)
    fit(new_network(), sources(), config, tmp_path / "run")
    with pytest.raises(RunError, match="is not of this run"):
        fit(new_network(), sources(), replace(config, unfreeze=("5",)), tmp_path / "run", resume=True)


def test_from_the_first_epoch_the_whole_network_learns_as_in_the_plain_loop(tmp_path: Path) -> None:
    network, given = new_network(), sources()
    before = {name: value.clone() for name, value in network.named_parameters()}
    result, _ = fit(network, given, TrainConfig(freeze=True, epochs=2, unfreeze_at=1, batch_size=16), tmp_path / "run")
    assert all(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    assert [record.epoch for record in result.history] == [1, 2]


def test_stopped_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    config = TrainConfig(freeze=True, epochs=3, unfreeze_at=2, unfreeze=("4",), batch_size=16, augment=("flip",))
    straight, stopped, given = new_network(), new_network(), sources()
    _, expected = fit(straight, given, config, tmp_path / "straight")
    with pytest.raises(Interrupted, match=r"after epoch 2.*--resume"):
        fit(stopped, given, config, tmp_path / "stopped", on_progress=stop_at("epoch 2/3"))
    resumed = new_network()
    result, logits = fit(resumed, given, config, tmp_path / "stopped", resume=True)
    assert np.array_equal(logits, expected)
    assert len(result.history) == 3
    for mine, other in zip(resumed.state_dict().values(), straight.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_a_wrong_stage_lists_the_right_ones(tmp_path: Path) -> None:
    config = TrainConfig(freeze=True, unfreeze_at=2, unfreeze=("blocks.6",))
    with pytest.raises(UsageError, match=r"blocks\.6.*0, 1, 10, 4, 5"):
        fit(new_network(), sources(), config, tmp_path / "run")


def test_a_network_that_is_no_chain_is_refused_in_words() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.classifier = nn.Conv2d(1, 2, 3), nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.features(x).mean((2, 3))) * 2

    with pytest.raises(UsageError, match=r"Fork does not end in one dense layer.*--no-freeze"):
        find_freezable(Fork(), (1, 8, 8))


@pytest.mark.parametrize("name", ["inception_v3", "googlenet", "legacy_seresnet18", "legacy_xception", "squeezenet1_1"])
def test_what_is_no_chain_has_a_backbone_and_a_head(name: str) -> None:
    network = build_model(ModelConfig(name=name), (3, 96, 96), 5)
    if name == "squeezenet1_1":  # its last layer is a convolution on maps
        with pytest.raises(UsageError, match="SqueezeNet does not end in one dense layer"):
            find_freezable(network, (3, 96, 96))
        return
    frozen, rest = split_stages(find_freezable(network, (3, 96, 96)), ())
    assert [type(stage) for stage in rest] == [nn.Linear]
    with torch.no_grad():
        x = torch.rand(2, 3, 96, 96)
        assert torch.allclose(rest(frozen(x)), network.eval()(x), atol=1e-5)


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    frozen, rest = split_stages(find_freezable(new_network(), (1, 8, 8)), ("5",))
    whole = nn.Sequential(frozen, rest)
    whole.train()
    assert isinstance(frozen, Frozen)
    assert not any(module.training for module in frozen.modules())
    assert rest[0].training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("weighted", [False, True])
def test_classes_count_the_same_when_balanced(tmp_path: Path, weighted: bool) -> None:
    """Of three classes with 100, 8 and 8 images the rare ones are found more often when all count the same."""
    images: ImageSet = make_image_set((100, 8, 8))
    noisy = np.random.default_rng(0).integers(0, 256, images.images.shape, np.uint8)
    images = ImageSet(**{**images.__dict__, "images": (images.images // 4 + noisy // 4 * 3).astype(np.uint8)})
    splits = Splits(np.arange(0, 116), np.zeros(0, np.int64), np.arange(0, 116), np.arange(116))
    base = sources()
    given = Transfer(**{**base.__dict__, "images": images, "splits": splits})
    config = TrainConfig(freeze=True, class_weights="balanced" if weighted else "none")
    _, logits = fit(new_network(), given, config, tmp_path / "run")
    rare = int((logits.argmax(axis=1) > 0).sum())
    assert rare > 16 if weighted else rare <= 16
