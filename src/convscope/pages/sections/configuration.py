"""Everything needed to repeat the run: options, versions, hardware and the command."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convscope.config import RunConfig, config_from_json, flag_of, options
from convscope.pages.section import RecordedRun, titled
from convscope.pages.text import UNKNOWN, bytes_text, count_text
from convscope.results.panels import Table

ALWAYS_GIVEN = ("epochs", "batch_size", "lr", "optimizer", "schedule", "seed", "split_seed")
"""Options that the command always names, because a later version may change their defaults."""
GIVEN_IF_PRETRAINED = ("resize", "crop_fraction", "interpolation")
"""Options whose default depends on the published weights."""


def _command(run: RecordedRun) -> str:
    facts = run.facts
    side_px = facts["preprocessing"]["image_size"][0]
    return reproducing_command(config_from_json(facts["config"]), facts["model"]["name"], side_px=side_px)


@titled(
    "Configuration",
    "The command below repeats the run: on the same machine with the same versions it gives the same numbers, "
    "elsewhere nearly the same.",
    command=_command,
)
def section(run: RecordedRun) -> tuple[Table, ...]:
    facts = run.facts
    fingerprints = (("Data", facts["data"]["fingerprint"] or UNKNOWN), ("Split", facts.get("split_sha256") or UNKNOWN))
    return (
        _options(config_from_json(facts["config"])),
        _preprocessing(facts["preprocessing"]),
        Table("Versions", ("What", "Version"), (("convscope", facts["convscope"]), *facts["versions"].items())),
        _hardware(facts["hardware"]),
        Table("Fingerprints", ("What", "SHA-256"), fingerprints),
    )


def reproducing_command(config: RunConfig, model: str, *, side_px: int) -> str:
    """Return the command line that repeats a run, quoted for a POSIX shell.

    Args:
        model: the network that was trained; the configuration may say `auto`.
        side_px: input size of the run; the default of a pretrained network depends on its weights.
    """
    if config.model.pretrained:
        config = replace(config, data=replace(config.data, image_size=side_px))
    always_given = (*ALWAYS_GIVEN, *(GIVEN_IF_PRETRAINED if config.model.pretrained else ()))
    words = ["convscope", "train", config.data.source]
    if config.model.stack is None:
        words += ["--model", model]
    for each in options().values():
        value = getattr(getattr(config, each.config), each.name)
        if each.panel is None or (value == each.default and each.name not in always_given):
            continue
        if isinstance(value, bool):
            words.append(flag_of(each.name if value else f"no_{each.name}"))
        else:
            words += [flag_of(each.name), _option_text(each.name, value)]
    return shlex.join(words)


def _option_text(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return ("/" if name == "split" else ",").join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)


def _value_text(name: str, value: object) -> str:
    """Return an option's value as text for the table of options."""
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return count_text(value) if isinstance(value, int) else _option_text(name, value)


def _options(config: RunConfig) -> Table:
    given = {each.name: getattr(getattr(config, each.config), each.name) for each in options().values()}
    rows = ((name, _value_text(name, value)) for name, value in given.items())
    return Table("Options", ("Option", "Value"), (("source", config.data.source), ("model", config.model.name), *rows))


def _preprocessing(preprocessing: Mapping[str, Any]) -> Table:
    height, width = preprocessing["image_size"]
    return Table(
        "Preprocessing of an image",
        ("Step", "Value"),
        (
            ("Size (height × width, pixels)", f"{height} × {width}"),
            ("Channels", str(preprocessing["channels"])),
            ("Subtracted from each channel (of 0..1)", ", ".join(f"{v:.4f}" for v in preprocessing["mean"])),
            ("Then divided by", ", ".join(f"{v:.4f}" for v in preprocessing["std"])),
        ),
    )


def _hardware(hardware: Mapping[str, Any]) -> Table:
    shown = {
        "Device": hardware["device"],
        "Name": hardware["name"],
        "CPU cores": hardware["cpu_cores"],
        "CPU threads used": hardware["threads"],
        "Memory": bytes_text(hardware["memory_bytes"]),
        "Platform": hardware["platform"],
    }
    rows = ((name, UNKNOWN if value is None else str(value)) for name, value in shown.items())
    return Table("Hardware", ("What", "Value"), tuple(rows))
