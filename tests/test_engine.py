"""Model files: the same numbers as torch, from the bytes on disk, and predictions without torch."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import convscope
from convscope.config import DataConfig, ModelConfig
from convscope.data.batches import Preprocessing
from convscope.data.decode.resize import Resizing, resize_image
from convscope.data.load import load_images
from convscope.errors import ExportError, RunError, UsageError
from convscope.inference.card import ModelCard, UnknownRule, card_from_json, card_to_json
from convscope.inference.engine import Engine, load_engine, prediction_of
from convscope.inference.export import to_onnx, trace
from convscope.inference.model_file import CLASS_MEANS_FILE
from convscope.inference.session import start_session
from convscope.inference.unknown import COSINE, KEPT, choose_rule, energy, mean_directions, softmax
from convscope.models import MODELS, build_model
from convscope.models.saved import SavedModel, load_model
from convscope.storage.files import read_json
from tests.support import run_convscope as command
from tests.support import write_folder

LARGE = ("alexnet-2012",)
ZOO = ("resnet18", "mobilenetv2_100", "efficientnet_lite0", "googlenet", "densenet121", "timm/convnext_atto")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos") / "data", side=40)


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on image files with resizing options that are not the default."""
    out = tmp_path_factory.mktemp("runs") / "run"
    convscope.train(
        str(photos), epochs=6, image_size=24, crop_fraction=0.9, interpolation="bicubic", out=out, report=True
    )
    return out


@pytest.mark.parametrize("name", [name for name in MODELS if name not in LARGE])
def test_a_file_equals_its_network(name: str) -> None:
    compare_on_noise(name, 100 if MODELS[name].native_shape[0] == 1 else 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LARGE, *ZOO])
def test_a_file_equals_its_large_network(name: str) -> None:
    compare_on_noise(name, 4)


def compare_on_noise(name: str, n: int) -> None:
    """Compare logits on noise images with batch statistics, weights and normalization that are not trivial."""
    spec = MODELS.get(name)
    shape, classes = (spec.native_shape, spec.native_classes) if spec else ((3, 128, 128), 7)
    torch.manual_seed(0)
    network = build_model(ModelConfig(name=name), shape, classes).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 2)
    mean, std = (0.3, 0.4, 0.5)[: shape[0]], (0.2, 0.25, 0.3)[: shape[0]]
    card = ModelCard(name, tuple(map(str, range(classes))), Resizing(image_size=shape[1], gray=shape[0] == 1))
    content = to_onnx(SavedModel(network, name, shape, card.class_names, mean, std), card)
    onnx.checker.check_model(onnx.load_from_string(content))
    engine = Engine(card, start_session(content, threads=1))
    images = np.random.default_rng(0).integers(0, 256, (n, *shape[1:], shape[0]), np.uint8)
    with torch.inference_mode():
        expected = network(Preprocessing(mean, std).apply(torch.from_numpy(images))).numpy()
    assert np.abs(engine.logits(images) - expected).max() < 1e-4
    assert np.abs(engine.logits(images[:1]) - expected[:1]).max() < 1e-4


def test_onnx_runtime_pads_within_convolutions_whose_padding_follows_from_the_size(tmp_path: Path) -> None:
    """TensorFlow's "same" pads 45 and 32 px differently; the network itself still pads by the size."""
    import onnxruntime  # after `engine`, which turns its telemetry off

    network = build_model(ModelConfig(name="efficientnet_lite0"), (3, 45, 45), 3).eval()
    images = torch.rand(2, 3, 45, 45)
    with torch.inference_mode():
        expected, smaller = network(images), network(images[:, :, :32, :32])
        content = trace(network, torch.zeros(2, 3, 45, 45), input_name="input", output_names=("output",))
        assert torch.equal(network(images[:, :, :32, :32]), smaller)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    nodes = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "Conv" in nodes
    assert nodes.isdisjoint({"Pad", "Shape"})
    (found,) = start_session(content, threads=1).run(["output"], {"input": images.numpy()})
    assert np.abs(found - expected.numpy()).max() < 1e-5


def test_a_run_is_certified_on_the_bytes_of_its_test_images(run: Path) -> None:
    found, results = read_json(run / "certificate.json"), read_json(run / "results.json")
    assert (found["from_files"], found["agrees"], found["changed"]) == (True, True, [])
    assert found["images"] == results["accuracy"]["n"]
    assert found["largest_difference"] < 1e-4
    assert "The file that predicts" in (run / "report.html").read_text()


def test_one_file_is_enough(run: Path, photos: Path, tmp_path: Path) -> None:
    """Graph and metadata alone, moved elsewhere, give what torch gives with the run's model.safetensors."""
    copy = tmp_path / "moved.onnx"
    copy.write_bytes((run / "model.onnx").read_bytes())
    image = next(iter(sorted((photos / "class 1").iterdir())))
    answers = convscope.predict(copy, image, topk=9)
    saved = load_model(run)
    fit = Resizing(image_size=24, gray=False, crop_fraction=0.9, interpolation="bicubic")
    pixels = resize_image(np.asarray(Image.open(image)), fit)
    with torch.inference_mode():
        x = Preprocessing(saved.mean, saved.std).apply(torch.from_numpy(pixels[None]))
        expected = saved.network(x).softmax(1)[0]
    assert [label for label, _ in answers.predictions[0].topk] == [
        saved.class_names[index] for index in expected.argsort(descending=True)
    ]
    assert dict(answers.predictions[0].topk)["class 1"] == pytest.approx(float(expected[1]), abs=1e-4)
    assert str(tmp_path) not in copy.read_bytes().decode("latin-1")


def test_files_folders_and_archives_give_the_same(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "class 0" / ".DS_Store").write_bytes(b"x")
    archive, broken = tmp_path / "some.zip", tmp_path / "notes.txt"
    broken.write_text("these are words")
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.write(photos / name, name)
    code, out, _ = command(capsys, "predict", run, photos, archive, broken, "--topk", "2", "--json")
    tree = json.loads(out)
    answers = tree["predictions"]
    assert (code, len(answers), tree["ignored"]) == (0, 2 * len(names), 1)
    assert [answer["path"] for answer in answers[: len(names)]] == [f"{photos}/{name}" for name in names]
    assert [answer["topk"] for answer in answers[: len(names)]] == [answer["topk"] for answer in answers[len(names) :]]
    (skipped,) = tree["skipped"]
    assert skipped["path"] == str(broken)
    assert "text" in skipped["reason"]
    assert skipped["remedy"]
    for answer in answers:
        assert answer["nearest"] == answer["topk"][0]["label"]
        assert answer["label"] == ("unknown" if answer["unknown"] else answer["nearest"])
        assert answer["probability"] == answer["topk"][0]["probability"] >= answer["topk"][1]["probability"]
    correct = sum(Path(answer["path"]).parent.name == answer["nearest"] for answer in answers)
    assert correct > 0.9 * len(answers)


def test_predictions_as_csv(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    table = tmp_path / "answers.csv"
    code, out, err = command(capsys, "predict", run, photos / "class 2", tmp_path / "empty.png", "--csv", table)
    assert code == 0
    assert "class 2" in out
    assert "empty file" in err
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 31
    assert float(rows[0]["probability_1"]) >= float(rows[0]["probability_2"])
    assert rows[-1]["reason"] == "empty file"


def test_errors_say_what_cannot_be_predicted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, out, err = command(capsys, "predict", run, tmp_path / "bad.png", "--json")
    assert (code, json.loads(out)["predictions"]) == (1, [])
    assert "none of 1 file" in err
    (tmp_path / "empty").mkdir()
    code, out, err = command(capsys, "predict", run, tmp_path / "empty")
    assert code == 1
    assert "no files in the folders given" in err
    code, out, err = command(capsys, "predict", run, "https://example.org/cat.jpg")
    assert code == 2
    assert "is a web address" in err
    with pytest.raises(UsageError, match="no file or folder 'nowhere'"):
        convscope.predict(run, "nowhere")
    with pytest.raises(RunError, match="is not a run folder"):
        convscope.predict(tmp_path, tmp_path / "bad.png")
    with pytest.raises(RunError, match="cannot be read as a model file"):
        convscope.predict(tmp_path / "bad.png", tmp_path / "bad.png")
    with pytest.raises(UsageError, match="nobody publishes trained weights for model 'lenet5'"):
        convscope.predict("lenet5", tmp_path / "bad.png")


def test_prediction_imports_no_torch(run: Path, photos: Path) -> None:
    code = (
        "import sys; from convscope.cli import main; sys.argv[0] = 'convscope'\n"
        "try: main()\n"
        "finally: print([n for n in sys.modules if n.split('.')[0] in ('torch', 'timm', 'sklearn', 'onnx')])"
    )
    arguments = ["predict", str(run), str(photos / "class 0"), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    answers, imported = done.stdout.splitlines()
    assert len(json.loads(answers)["predictions"]) == 30
    assert imported == "[]"


def test_export_writes_the_same_file_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "again.onnx"
    code, printed, _ = command(capsys, "export", run, "--to", "onnx", "--out", out)
    assert (code, printed.strip()) == (0, str(out))
    images = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), np.uint8)
    first, second = load_engine(run / "model.onnx"), load_engine(out)
    assert first.card == second.card
    assert np.array_equal(first.logits(images), second.logits(images))
    code, _, err = command(capsys, "export", run, "--to", "tflite")
    assert code == 2
    assert "Known: onnx" in " ".join(err.split())


def test_embedded_network_on_known_images(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """File names hold the class number; for 60 images the limits are 1 and 2 standard errors below 86 % and 97 %."""
    from convscope.models.zoo.pretrained import pretrained_class_names

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    samples = sorted((reference / "imagenet-samples").glob("*.JPEG"))
    code, out, _ = command(capsys, "predict", "efficientnet_lite0", *samples, "--topk", "5", "--json")
    answers = json.loads(out)["predictions"]
    names = pretrained_class_names("efficientnet_lite0")
    found = [[entry["label"] for entry in answer["topk"]] for answer in answers]
    true = [names[int(path.name[:4])] for path in samples]
    assert (code, len(found)) == (0, len(samples))
    assert np.mean([labels[0] == name for labels, name in zip(found, true, strict=True)]) >= 0.80
    assert np.mean([name in labels for labels, name in zip(found, true, strict=True)]) >= 0.93


def test_the_threshold_keeps_the_fraction_it_states() -> None:
    logits = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32) * 3
    choice = choose_rule(logits, None, None)
    assert choice is not None
    assert choice.class_means is None
    rule = choice.rule
    assert rule.kept == pytest.approx(KEPT, abs=1.01 / 400)
    assert float((softmax(logits).max(1) >= rule.threshold).mean()) == rule.kept
    assert choose_rule(logits[:5], None, None) is None
    assert np.allclose(energy(logits), torch.from_numpy(logits).logsumexp(1).numpy(), atol=1e-5)
    card = ModelCard("m", ("Ä", "b"), Resizing(image_size=8, gray=True), rule)
    assert card_from_json(card_to_json(card)) == card


def test_similarity_is_the_cosine_to_the_nearest_class_mean_of_training() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    training, features = ((rng.normal(size=(60, 8)) + 3 * np.eye(3, 8)[labels]).astype(np.float32) for _ in range(2))
    means = mean_directions(training, labels, 4)
    unit = training / np.linalg.norm(training, axis=1, keepdims=True)
    sums = np.stack([unit[labels == k].mean(axis=0) for k in range(3)])
    assert means[:3] == pytest.approx(sums / np.linalg.norm(sums, axis=1, keepdims=True), abs=1e-6)
    assert not means[3].any()  # no training image: nothing is similar to it
    choice = choose_rule(np.zeros((60, 4), np.float32), features, means)
    assert choice is not None
    values = (features @ means[:3].T).max(axis=1) / np.linalg.norm(features, axis=1)
    assert choice.rule.score == COSINE
    assert choice.rule.threshold == pytest.approx(np.quantile(values, 1 - KEPT, method="lower"), abs=1e-5)
    assert choice.rule.kept == pytest.approx(KEPT, abs=1.01 / 60)


def test_strangers_are_unknown_beside_a_class_of_three_images() -> None:
    """One of its images is for validation: its mean comes from the others, and the rule still keeps what it states."""
    rng = np.random.default_rng(0)

    def near(labels: np.ndarray) -> np.ndarray:
        return (rng.normal(size=(len(labels), 32)) + 8 * np.eye(4, 32)[labels]).astype(np.float32)

    labels, held_out = np.array([*(np.arange(600) % 3), 3, 3]), np.array([*(np.arange(150) % 3), 3])
    choice = choose_rule(np.zeros((151, 4), np.float32), near(held_out), mean_directions(near(labels), labels, 4))
    assert choice is not None
    strangers = (rng.normal(size=(60, 32)) + 8 * np.eye(32)[20]).astype(np.float32)
    assert (choice.scores(np.zeros((60, 4), np.float32), strangers) < choice.rule.threshold).all()
    own = choice.scores(np.zeros((600, 4), np.float32), near(labels[:600]))
    assert float((own >= choice.rule.threshold).mean()) > 0.9


def test_a_tiny_class_does_not_turn_similarity_off(tmp_path: Path) -> None:
    digits = load_images(DataConfig(source="digits", per_class=30))
    pale = [np.full((8, 8, 1), 128 + 10 * i, np.uint8) for i in range(3)]
    for number, (image, label) in enumerate(
        [*zip(digits.images, digits.labels, strict=True), *((p, 10) for p in pale)]
    ):
        path = tmp_path / "data" / f"class {label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    run = tmp_path / "run"
    convscope.train(
        str(tmp_path / "data"), stack="linear 16; relu; linear 11", gray=True, epochs=1, out=run, report=False
    )
    assert read_json(run / "certificate.json")["unknown"]["score"] == COSINE
    means = np.load(run / CLASS_MEANS_FILE)
    assert np.linalg.norm(means, axis=1) == pytest.approx(np.ones(11), abs=1e-5)
    assert load_engine(run / "model.onnx").outputs(digits.images[:1])[0][1] is not None


def test_a_model_file_computes_the_similarity_of_the_rule(tmp_path: Path) -> None:
    run = tmp_path / "run"
    convscope.train("digits", model="cnn", epochs=1, out=run, report=False)
    engine, class_means = load_engine(run / "model.onnx"), np.load(run / CLASS_MEANS_FILE)
    assert engine.card.unknown is not None
    assert engine.card.unknown.score == COSINE
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), np.uint8)
    saved = load_model(run)
    layers: Any = saved.network
    with torch.inference_mode():
        features = layers[:-1](Preprocessing(saved.mean, saved.std).apply(torch.from_numpy(images)))
    unit = features / features.norm(dim=1, keepdim=True)
    expected = (unit @ torch.from_numpy(class_means).T).amax(1)
    found = engine.outputs(images)
    assert [similarity for _, similarity in found] == pytest.approx(expected.tolist(), abs=1e-4)
    assert np.array_equal(np.stack([logits for logits, _ in found]), engine.logits(images))
    convscope.export(run, out=tmp_path / "again.onnx")
    again = load_engine(tmp_path / "again.onnx").outputs(images)
    assert [similarity for _, similarity in again] == [similarity for _, similarity in found]


def test_noise_is_unknown_and_test_images_are_not(tmp_path: Path) -> None:
    """Noise is unlike the digits that the network was trained on.

    Of images like the validation split 95 % are kept, within 0.02 for 270 of them and as many test images:
    0.88 is more than three standard deviations away. Of 100 digits 5 would be unknown; of 100 noise images 84 to 94
    were, for three training seeds.
    """
    convscope.train("digits", epochs=8, out=tmp_path / "run", report=False)
    certificate = read_json(tmp_path / "run" / "certificate.json")
    assert certificate["unknown"]["test_kept"] > 0.88
    rng = np.random.default_rng(0)
    (tmp_path / "other").mkdir()
    for number in range(100):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "other" / f"{number}.png")
    answers = convscope.predict(tmp_path / "run", tmp_path / "other").predictions
    unknown = [answer for answer in answers if answer.unknown]
    assert len(unknown) > 50
    assert all(answer.label == "unknown" and answer.topk[0][0] in "0123456789" for answer in unknown)


def test_a_network_without_an_onnx_form_leaves_standard_output_alone(capfd: pytest.CaptureFixture[str]) -> None:
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x).flatten(1)

    with pytest.raises(ExportError, match="bessel_j0"):
        trace(Bessel().eval(), torch.zeros(2, 3), input_name="x", output_names=("y",))
    assert capfd.readouterr().out == ""


def test_a_class_called_unknown_is_told_from_the_answer() -> None:
    rule = UnknownRule(score="cosine to the nearest class", threshold=0.5, kept=0.95, n=100)
    for names, expected in ((("cat", "unknown"), "(unknown)"), (("cat", "dog"), "unknown")):
        card = ModelCard("made", names, Resizing(image_size=8, gray=True), rule)
        logits = np.array([0.0, 1.0], np.float32)
        assert prediction_of(card, "a.png", logits, 0.4, topk=2).label == expected
        assert prediction_of(card, "a.png", logits, 0.6, topk=2).label == names[1]
