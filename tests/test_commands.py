"""Every command line that convscope prints runs as printed, and does what is said of it."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import hypothesis.strategies as st
import pytest
import typer
from hypothesis import given, settings

import convscope
from convscope.cli import build_app
from convscope.cli.options import parse_options
from convscope.config import DataConfig, RunConfig, TrainConfig, options
from convscope.models import MODELS
from convscope.pages.section import RecordedRun
from convscope.pages.sections import SECTIONS
from convscope.run.configure import command_of
from convscope.writeups.recipes import RECIPES
from tests.support import run_convscope, write_folder

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "image_size": st.integers(200, 300),
    "crop_fraction": st.floats(0.1, 1, allow_subnormal=False),
    "per_class": st.integers(1, 10**6),
    "split": st.sampled_from([(80.0, 10.0, 10.0), (100 / 3, 100 / 3, 100 / 3), (99.5, 0.25, 0.25), (1.0, 98.0, 1.0)]),
    "max_pixels": st.integers(1, 10**12),
    "epochs": st.integers(5, 10**6),
    "batch_size": st.integers(1, 10**6),
    "lr": st.floats(1e-12, 1e3, allow_subnormal=False),
    "unfreeze_lr": st.floats(1e-12, 1e3, allow_subnormal=False),
    "momentum": st.floats(0, 0.999, allow_subnormal=False),
    "beta2": st.floats(0, 0.9999, allow_subnormal=False),
    "label_smoothing": st.floats(0, 0.99, allow_subnormal=False),
    "weight_decay": st.floats(0, 10, allow_subnormal=False),
    "checkpoint_seconds": st.floats(0, 1e6, allow_subnormal=False),
    "augment": st.lists(st.sampled_from(["flip", "crop", "rotate"]), unique=True).map(tuple),
    "data_dir": st.sampled_from(["/a folder/-- of 'mine'"]),
}
"""Values of options whose type alone does not say which are allowed."""
LEFT_OUT = {"stack", "weights", "whiten", "pretrained", "freeze", "unfreeze", "unfreeze_at", "auto_batch"}
"""Options that exclude others; the recipes set them."""


def values_of(name: str) -> st.SearchStrategy[Any]:
    each = options()[name]
    if name in VALUES:
        return VALUES[name]
    if each.choices:
        return st.sampled_from(each.choices)
    return st.booleans() if bool in each.kinds else st.integers(1, 1000) if int in each.kinds else st.just("cpu")


some_options = st.fixed_dictionaries({}, optional={n: values_of(n) for n in options() if n not in LEFT_OUT})


def parsed(command: str) -> RunConfig:
    """Return the configuration that a command line of `train` gives."""
    program, verb, *words = shlex.split(command)
    assert (program, verb) == ("convscope", "train")
    train = typer.main.get_command(build_app("train")).commands["train"]  # type: ignore[attr-defined]
    found = dict(train.make_context("train", words).params)
    data, model = found.pop("data"), found.pop("model")
    return convscope.make_config(data, model, **parse_options({n: v for n, v in found.items() if n in options()}))


def with_momentum(config: RunConfig) -> RunConfig:
    """Return a configuration that names the momentum that it trains with."""
    return replace(config, train=replace(config.train, momentum=config.train.momentum_or_default))


@pytest.mark.parametrize("model", [*MODELS, "efficientnet_lite0"])
@settings(max_examples=10, deadline=None)
@given(chosen=some_options)
def test_the_command_of_a_run_gives_its_configuration(model: str, chosen: dict[str, Any]) -> None:
    pretrained = model == "efficientnet_lite0" or None
    config = convscope.make_config("my photos; rm -rf", model, pretrained=pretrained, **chosen)
    assert with_momentum(parsed(command_of(config))) == with_momentum(config)


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_of_a_recipe_gives_its_configuration(name: str) -> None:
    """What a recipe leaves open is the default of the configuration, whatever the network's own is."""
    config = RECIPES[name].config
    config = replace(config, data=replace(config.data, source=config.data.source or "photos"))
    if config.data.image_size is None:  # the side of the data, which a recipe leaves to them
        config = replace(config, data=replace(config.data, image_size=parsed(command_of(config)).data.image_size))
    assert with_momentum(parsed(command_of(config))) == with_momentum(config)


def test_the_command_of_a_run_names_what_later_versions_may_change() -> None:
    config = RunConfig(
        data=DataConfig(source="my photos; rm -rf", gray=True, split=(80.0, 10.0, 10.0)),
        model=convscope.make_config("digits", stack="conv 4 3x3; linear 10").model,
        train=TrainConfig(normalize=False, augment=("flip", "crop"), lr=0.01),
    )
    assert command_of(config) == (
        "convscope train 'my photos; rm -rf' --gray --split 80/10/10 --split-seed 0 --stack 'conv 4 3x3; linear 10' "
        "--epochs 10 --batch-size 64 --lr 0.01 --optimizer adam --schedule one-cycle --augment flip,crop "
        "--no-normalize --seed 0"
    )


# ---------------------------------------------------------------- what messages name

SOURCES = sorted(Path(convscope.__file__).parent.rglob("*.py"))
OTHER_PROGRAMS = ("pip", "apt-get", "ffmpeg", "magick", "gs", "pdftoppm")
OURS = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def flags_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


COMMANDS: dict[str, click.Command] = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
FLAGS = {name: flags_of(command) | {"--help"} for name, command in COMMANDS.items()}


def texts(source: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the content of each text in a module; what is put into one stands as "{}"."""
    tree = ast.parse(source.read_text("utf-8"))
    whole = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in whole:
            yield node.lineno, node.value


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_options_that_a_text_names_exist(source: Path) -> None:
    """After `convscope VERB` they are options of that verb, elsewhere of one verb at least."""
    for line, text in texts(source):
        if any(f"{program} " in text for program in OTHER_PROGRAMS):
            continue
        start, known = 0, {"--version"}.union(*FLAGS.values())
        for verb in [*re.finditer(r"convscope ([a-z]+)", text), None]:
            named = OURS.findall(text[start : verb.start() if verb else None])
            assert set(named) <= known, f"{source}:{line}: {text}"
            if verb is not None and verb[1] in FLAGS:
                start, known = verb.end(), FLAGS[verb[1]]


@pytest.mark.parametrize("verb", ["train", "recipe", "compare", "predict", "inspect", "check"])
def test_a_verb_that_reads_images_takes_the_options_that_the_reader_names(verb: str) -> None:
    reader = [text for path in SOURCES if path.parent.name == "decode" for _, text in texts(path)]
    named = {flag for text in reader for flag in OURS.findall(text)}
    assert {"--max-pixels", "--allow-truncated"} <= named <= FLAGS[verb]


# ---------------------------------------------------------------- what messages advise, done


WORD = r"(?:'[^']*'|\"[^\"]*\"|[^\s'\";`])+"
COMMAND = re.compile(rf"`(convscope [^`]+)`|: (convscope(?: {WORD})+)")


def advised(text: str) -> list[str]:
    """Return the command lines in a message: in backticks, or after a colon to the end of the clause."""
    found = [quoted or plain for quoted, plain in COMMAND.findall(text)]
    return [command.rstrip(".)") for command in dict.fromkeys(found)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a finished run of it, in paths that a shell would take apart."""
    here = tmp_path_factory.mktemp("it's here")
    write_folder(here / "my data")
    convscope.train(here / "my data", model="mlp", epochs=1, batch_size=32, out=here / "a run")
    return here


def without(name: str, *others: str) -> Callable[[Path], None]:
    def remove(here: Path) -> None:
        for each in (name, *others):
            (here / "a run" / each).unlink()

    return remove


def move_images(here: Path) -> None:
    (here / "my data" / "class 0" / "0.png").rename(here / "my data" / "class 1" / "again.png")


def drop_folders(here: Path) -> None:
    (here / "loose").mkdir()
    for path in (here / "my data" / "class 0").iterdir():
        path.rename(here / "loose" / path.name)
    (here / "my data" / "class 0").rmdir()


ADVICE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no model file": (without("model.onnx", "certificate.json"), "predict {run} {data}", "convscope export"),
    "unfinished": (without("results.json"), "compare {run} {run}", "convscope train --resume"),
    "changed data": (move_images, "inspect {run}", "convscope evaluate"),
    "images without labels": (drop_folders, "evaluate {run} {here}/loose", "convscope predict"),
    "its own images": (lambda here: None, "evaluate {run} {data}", "convscope evaluate"),
    "a run as data": (lambda here: None, "train {run}", "convscope train --resume"),
    "no run": (lambda here: None, "report {here}/none", "convscope runs"),
    "no data": (lambda here: None, "train {here}/none.zip", "convscope data list"),
    "no network": (lambda here: None, "train {data} --model resnet", "convscope models"),
}
"""Situation -> how it comes about, the command that meets it, and the beginning of what is advised."""


@pytest.mark.parametrize("situation", ADVICE)
def test_what_a_message_advises_is_done_as_printed(
    situation: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(shutil.copytree(trained, tmp_path / "it's here"))
    recorded = here / "a run" / "run.json"
    recorded.write_text(recorded.read_text("utf-8").replace(str(trained), str(here)), "utf-8")
    make, met, beginning = ADVICE[situation]
    make(here)
    words = [word.format(here=here, run=here / "a run", data=here / "my data") for word in met.split()]
    _, out, err = run_convscope(capsys, *words)
    commands = [command for command in advised(out + err) if command.startswith(beginning)]
    assert commands, out + err
    monkeypatch.chdir(here)
    for command in commands:
        assert run_convscope(capsys, *shlex.split(command)[1:])[0] == 0, command


def test_the_commands_of_a_report_run_as_printed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RecordedRun(trained / "a run")
    commands = [command for name in SECTIONS if (command := SECTIONS[name](run).command)]
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert run_convscope(capsys, *shlex.split(command)[1:])[0] == 0, command
