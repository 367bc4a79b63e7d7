"""Run folders and model files from strangers: every reader works or says in a ConvscopeError what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import convscope
from convscope.comparison.recorded import load_finished_run
from convscope.errors import CheckpointError, ConvscopeError, RunError
from convscope.inference.card import CARD_KEY
from convscope.inference.engine import load_engine
from convscope.inference.model_file import export_run
from convscope.models.saved import load_model
from convscope.pages.page import read_report
from convscope.run.data_diff import describe_change
from convscope.run.record import read_plan
from convscope.storage.checkpoints import load_checkpoint
from convscope.storage.files import read_array, read_arrays
from convscope.storage.run_folder import read_config, summarize_runs
from convscope.storage.run_start import read_start
from tests.support import make_image_set, run_convscope, write_folder

Mutation = Callable[[Path, random.Random], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every file that one may have."""
    root = tmp_path_factory.mktemp("good")
    data = write_folder(root / "data")
    options: dict[str, Any] = {"split": (40, 30, 30), "augment": ["flip"], "checkpoint_steps": 1, "epochs": 2}
    stack = "conv 4 3x3; relu; max-pool 4; linear 3"
    convscope.train(str(data), stack=stack, out=root / "run", report=False, **options)
    return root / "run"


@pytest.fixture
def run(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "run"))


def predict_once(run: Path) -> None:
    engine = load_engine(run / "model.onnx")
    side = engine.card.fit.image_size
    assert side is not None
    engine.outputs(np.zeros((1, side, side, 1 if engine.card.fit.gray else 3), np.uint8))


READERS: dict[str, Callable[[Path], object]] = {
    "report": read_report,
    "evaluate": load_model,
    "runs": lambda run: summarize_runs(run.parent),
    "predict": predict_once,
    "compare": load_finished_run,
    "resume": lambda run: (read_plan(run, read_config(run)), load_checkpoint(run), read_start(run)["split_sha256"]),
    "what changed": lambda run: describe_change(run, make_image_set()),
    "export": lambda run: export_run(run, run / "exported.onnx"),
}


def read_all(run: Path, name: str) -> Iterator[str]:
    """Yield what each reader has against a run; any other exception is the test's."""
    for reader, read in READERS.items():
        if reader == "export" and name not in ("class_means.npy", "certificate.json"):
            continue  # which takes ten times as long as the others together
        try:
            read(run)
        except ConvscopeError as error:
            yield str(error)


# ---------------------------------------------------------------- mutations

VALUES = (None, -1, 10**9, 10**400, 9.5, 0, True, "x", "", "\ud800", [], {}, [[]], float("nan"), float("inf"))


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def change_json(file: Path, chance: random.Random) -> None:
    """Delete a value or replace it by another."""
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    tree = json.loads(lines[0])
    *above, last = chance.choice(list(places(tree)))
    place = tree
    for key in above:
        place = place[key]
    if chance.random() < 0.25:
        del place[last]
    else:
        place[last] = chance.choice(VALUES)
    file.write_text("\n".join([json.dumps(tree), *lines[1:]]))


def change_csv(file: Path, chance: random.Random) -> None:
    """Replace a cell, lose one, lose the heading, or put bytes where none belong."""
    lines = file.read_text().splitlines()
    number = chance.randrange(len(lines))
    cells = lines[number].split(",")
    cells[chance.randrange(len(cells))] = chance.choice(["", "x", "nan", "1e999", '"', "\0", "a,b", "\x1b[31m"])
    lines[number] = ",".join(cells[: chance.choice([1, len(cells)])])
    file.write_bytes("\n".join(lines[chance.choice([0, 0, 1]) :]).encode() + chance.choice([b"", b"\xff", b'\n"']))


def change_bytes(file: Path, chance: random.Random) -> None:
    """Cut a file, or turn some bits."""
    content = bytearray(file.read_bytes())
    if chance.random() < 0.3:
        del content[chance.randrange(len(content)) :]
    for _ in range(chance.randrange(1, 8) if content else 0):
        content[chance.randrange(min(len(content), chance.choice([40, 10**9])))] = chance.randrange(256)
    file.write_bytes(content)


def replace_whole(file: Path, chance: random.Random) -> None:
    """Put something else in the place of a file."""
    file.unlink()
    kind = chance.choice(["fifo", "folder", "empty", "deep", "list", "zero"])
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "zero":
        file.symlink_to("/dev/zero")
    else:
        file.write_text({"empty": "", "deep": "[" * 100_000, "list": "[1, 2]"}[kind])


BY_SUFFIX: dict[str, Mutation] = {".json": change_json, ".jsonl": change_json, ".csv": change_csv}
FILES = {
    **{"run.json": 40, "results.json": 20, "model.json": 20, "plan.json": 12, "certificate.json": 8},
    **{"calibration.json": 8, "history.jsonl": 8, "split.csv": 8, "predictions.csv": 8, "mistakes.csv": 4},
    **{"skipped.csv": 4, "class_means.npy": 5, "digests.npy": 6, "thumbnails.npz": 6, "inside.npz": 6},
    **{"augmentation.npz": 4, "model.safetensors": 12, "model.onnx": 15, "checkpoints/step-2/manifest.json": 6},
}
"""File -> how many mutations."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_read_or_refused_in_words(good: Path, tmp_path: Path, name: str) -> None:
    for seed in range(FILES[name] + 2):
        chance = random.Random(f"{name} {seed}")
        run = Path(shutil.copytree(good, tmp_path / str(seed) / "run"))
        mutate = replace_whole if seed >= FILES[name] else BY_SUFFIX.get(Path(name).suffix, change_bytes)
        mutate(run / name, chance)
        try:
            list(read_all(run, name))
        except Exception as error:
            pytest.fail(f"{name}, seed {seed}: {error!r}")


def test_the_good_run_is_read_by_all(run: Path) -> None:
    assert list(read_all(run, "class_means.npy")) == []


def set_value(file: Path, *keys: str | int, to: object) -> None:
    tree = place = json.loads(file.read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    file.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("file", "keys", "value", "words"),
    [
        ("run.json", ("config", "train", "epochs"), "3", r"run\.json: epochs '3' is not a whole number"),
        ("run.json", ("preprocessing", "std", 0), 0, r"run\.json: preprocessing\.std\[0\] 0\.0 is not more than 0"),
        ("run.json", ("class_names", 0), "\ud800", r"class_names\[0\] '\\ud800' is not text that UTF-8 can hold"),
        ("run.json", ("config", "data", "crop_fraction"), 9.5, r"crop_fraction 9\.5 is not in 0\.\.1"),
        ("model.json", ("architecture", "num_classes"), 10**9, r"class_names has 3 values for 1000000000 classes"),
        ("model.json", ("class_names",), ["a", "b"], r"class_names has 2 values for 3 classes"),
        (
            "model.json",
            ("architecture", "input_shape"),
            [3, 12, 10**9],
            r"input_shape\[2\] 1000000000 is not at least 1",
        ),
        ("model.json", ("architecture", "stack"), "linear 90000; linear 3", r"model\.safetensors does not hold"),
        ("results.json", ("accuracy", "value"), "nan%", r"accuracy\.value 'nan%' is not a finite number"),
        ("plan.json", ("stages", 0, "stage"), None, r"stages\[0\]\.stage None is not text"),
        ("certificate.json", ("unknown", "score"), "luck", r"unknown\.score 'luck' is not one of"),
    ],
)
def test_a_refusal_names_file_and_value(
    run: Path, file: str, keys: tuple[str | int, ...], value: object, words: str
) -> None:
    set_value(run / file, *keys, to=value)
    with pytest.raises(RunError, match=words):
        raise RunError("\n".join(read_all(run, "certificate.json")))


@pytest.mark.parametrize(("name", "value"), [("nan", float("nan")), ("inf", float("inf"))])
def test_weights_that_are_not_finite_are_refused(run: Path, name: str, value: float) -> None:
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-4:] = np.float32(value).tobytes()
    (run / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="holds numbers that are not finite"):
        load_model(run)


@pytest.mark.parametrize("start", [-8, 0, 8])
def test_offsets_that_overlap_or_lie_outside_are_refused(run: Path, start: int) -> None:
    path = run / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    last = max(header, key=lambda name: header[name]["data_offsets"][0])
    first, end = header[last]["data_offsets"]
    header[last]["data_offsets"] = [start, start + end - first]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(RunError, match="is not a safetensors file"):
        load_model(run)


def test_arrays_take_the_memory_that_they_hold_not_what_they_announce(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 4), np.float32))
    assert np.array_equal(read_array(path), np.zeros((3, 4)))
    path.write_bytes(path.read_bytes().replace(b"(3, 4)", b"(9**9,)"))
    for content in (path.read_bytes(), path.read_bytes().replace(b"(9**9,)", b"(3000000000, 4)")):
        path.write_bytes(content)
        with pytest.raises(RunError, match="is not an array of numbers"):
            read_array(path)


def test_a_packed_array_that_expands_too_far_is_refused_while_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**6, np.uint8), b=np.ones(3))
    assert read_arrays(tmp_path / "a.npz")["b"].tolist() == [1, 1, 1]
    monkeypatch.setattr("convscope.storage.files.MAX_ARRAY_BYTES", 10_000)
    with pytest.raises(RunError, match="holds more than 10,000 bytes"):
        read_arrays(tmp_path / "a.npz")


def test_a_checkpoint_that_says_something_else_is_refused(run: Path) -> None:
    """Its hashes are right: whoever wrote it knew how."""
    newest = run / "checkpoints" / "step-2"
    set_value(newest / "loop.json", "state", "epoch", to="two")
    manifest = json.loads((newest / "manifest.json").read_text())
    content = (newest / "loop.json").read_bytes()
    manifest["loop.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"state\.epoch 'two' is not a whole number"):
        convscope.resume(run, report=False)


def test_a_foreign_run_does_not_hide_the_others(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, content in enumerate(["[]", '{"schema": 2}', '{"schema": 2, "created": "2026-13-01"}', "[" * 10**5]):
        (run.parent / f"foreign-{number}").mkdir()
        (run.parent / f"foreign-{number}" / "run.json").write_text(content)
    (run.parent / "waiting").mkdir()
    os.mkfifo(run.parent / "waiting" / "run.json")
    code, out, err = run_convscope(capsys, "runs", run.parent)
    assert (code, out.count("cannot be read")) == (0, 5)
    assert "data" in out.splitlines()[1]
    assert "it is not a regular file" in err
    assert "created '2026-13-01'" not in err  # what is wrong with it, in the words of the library
    assert "Traceback" not in err


# ---------------------------------------------------------------- model files


def loop_graph() -> onnx.GraphProto:
    """Return a graph that counts to 2 ** 62."""
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    go_on = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    same = helper.make_tensor_value_info("same", TensorProto.BOOL, [])
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["same"])], "body", [number, go_on], [same])
    steps = helper.make_tensor("steps", TensorProto.INT64, [], [2**62])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    loop = helper.make_node("Loop", ["steps", "true"], [], body=body)
    return helper.make_graph([loop], "g", [], [], [steps, true])


def with_loop(model: onnx.ModelProto) -> None:
    graph = loop_graph()
    model.graph.node.extend(graph.node)
    model.graph.initializer.extend(graph.initializer)


def with_loop_in_branch(model: onnx.ModelProto) -> None:
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(true)
    branch = helper.make_node("If", ["true"], [], then_branch=loop_graph(), else_branch=loop_graph())
    model.graph.node.append(branch)


def with_numbers_elsewhere(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if each.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def with_other_output(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    for output in model.graph.output:
        output.name = "scores" if output.name == "logits" else output.name


def with_nan(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.raw_data:
            tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()


def with_card(**changes: object) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (entry,) = (each for each in model.metadata_props if each.key == CARD_KEY)
        tree = json.loads(entry.value)
        tree["fit"] |= {key: value for key, value in changes.items() if key in tree["fit"]}
        entry.value = json.dumps(tree | {key: value for key, value in changes.items() if key in tree})

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_loop, "has the operator 'Loop'"),
        (with_loop_in_branch, "has the operator 'Loop'"),
        (with_numbers_elsewhere, "its numbers are in another file"),
        (with_other_output, "its outputs are"),
        (with_nan, "expected finite numbers"),
        (with_card(crop_fraction=9.5), r"card\.fit\.crop_fraction 9\.5 is not more than 0 and at most 1"),
        (with_card(class_names=["a", "b"]), "its card names 2 classes"),
        (with_card(image_size=10**6), r"image_size 1000000 is not at least 1 and at most 10000"),
        (with_card(image_size=13), "its card says images of 13x13x3"),
        (with_card(unknown={"score": "luck", "threshold": 0, "kept": 1, "n": 5}), "its card has the score 'luck'"),
        (with_card(unknown=5), "card.unknown 5 is not an object"),
    ],
)
def test_a_model_file_that_cannot_be_trusted_is_refused(
    run: Path, change: Callable[[onnx.ModelProto], None], words: str
) -> None:
    model = onnx.load(run / "model.onnx")
    change(model)
    onnx.save(model, run / "model.onnx")
    with pytest.raises(RunError, match=words):
        predict_once(run)


# ---------------------------------------------------------------- what reaches the terminal

COMMANDS = ("\x1b[2Jcleared", "\x1b]0;title\x07", "\u202egnp.exe\nfake line")


def rename_classes(run: Path, names: tuple[str, ...]) -> None:
    model = onnx.load(run / "model.onnx")
    with_card(class_names=list(names))(model)
    onnx.save(model, run / "model.onnx")


def test_names_of_classes_and_files_do_not_command_the_terminal(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rename_classes(run, COMMANDS)
    folder = tmp_path / "\x1b[31mred"
    folder.mkdir()
    write_image(tmp_path).rename(folder / "a.png")
    code, out, err = run_convscope(capsys, "predict", run, folder, "--csv", tmp_path / "out.csv")
    table = (tmp_path / "out.csv").read_text()
    for text in (out, err, table):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert (code, len(table.splitlines())) == (0, 2)
    for shown in ("\\u001b[2Jcleared", "\\u202egnp.exe\\u000afake line"):
        assert shown in out
        assert shown in table
    code, out, _ = run_convscope(capsys, "predict", run, folder, "--json")
    assert (code, out.isascii()) == (0, True)
    assert {each["label"] for each in json.loads(out)["predictions"][0]["topk"]} == set(COMMANDS)
    for arguments in (("report", folder / "no\x1b[5m"), ("evaluate", "no\x1b]0;x\x07"), ("runs", "\x1b[1m")):
        _, out, err = run_convscope(capsys, *arguments)
        assert "\x1b" not in out + err, arguments


def write_image(folder: Path) -> Path:
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(folder / "image.png")
    return folder / "image.png"


def test_what_a_stream_cannot_encode_is_escaped(run: Path, tmp_path: Path) -> None:
    rename_classes(run, ("猫", "犬", "鳥"))
    command = [sys.executable, "-m", "convscope", "predict", str(run), str(write_image(tmp_path))]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True, cwd=tmp_path)
    assert b"\\u732b" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on address space is Linux's")
def test_too_little_memory_ends_in_one_line(tmp_path: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (700_000_000,) * 2)\n"
        "from convscope.cli import main; sys.argv[1:] = ['train', 'digits', '--epochs', '1']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: out of memory or threads" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
