"""What one needs to do the run again: options, versions, hardware and the command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from convscope.config import RunConfig, config_from_json
from convscope.report.section import RecordedRun, Section
from convscope.report.text import UNKNOWN, bytes_text, count_text
from convscope.results import Table

ALWAYS_GIVEN = ("epochs", "batch_size", "lr", "optimizer", "schedule", "seed", "split_seed")
"""Options that the command names even where they have their default, which a later version may change."""
GIVEN_IF_PRETRAINED = ("resize", "crop_fraction", "interpolation")
"""Options whose default with published weights is not that of the configuration."""


def configuration_section(run: RecordedRun) -> Section:
    """Return the configuration, versions and hardware of the run, and the command that repeats it."""
    facts = run.facts
    config = config_from_json(facts["config"])
    return Section(
        title="Configuration",
        intro="Type the command below to repeat the run: on the same machine with the same versions it gives the same "
        "figures, elsewhere nearly the same.",
        panels=(
            _options(config),
            _preprocessing(facts["preprocessing"]),
            Table("Versions", ("What", "Version"), (("convscope", facts["convscope"]), *facts["versions"].items())),
            _hardware(facts["hardware"]),
            Table(
                "Fingerprints",
                ("What", "SHA-256"),
                (("Data", facts["data"]["fingerprint"] or UNKNOWN), ("Split", facts.get("split_sha256") or UNKNOWN)),
            ),
        ),
        command=reproducing_command(config, facts["model"]["name"], side_px=facts["preprocessing"]["image_size"][0]),
    )


def reproducing_command(config: RunConfig, model: str, *, side_px: int) -> str:
    """Return the command line that repeats a run, quoted for a POSIX shell.

    Args:
        model: the network that was really trained; the configuration may say `auto`.
        side_px: of the pictures it was given; a pretrained network would otherwise get those its weights are used to.
    """
    if config.model.pretrained:
        config = replace(config, data=replace(config.data, image_size=side_px))
    always_given = (*ALWAYS_GIVEN, *(GIVEN_IF_PRETRAINED if config.model.pretrained else ()))
    words = ["convscope", "train", config.data.source]
    if config.model.stack is None:
        words += ["--model", model]
    for part in (config.model, config.train, config.data):
        for field in fields(part):
            value = getattr(part, field.name)
            said_already = field.name == "name" or field.default is MISSING
            if said_already or (value == field.default and field.name not in always_given):
                continue
            option = field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", _option_text(field.name, value)]
    return shlex.join(words)


def _option_text(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return ("/" if name == "split" else ",").join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)


def _shown(name: str, value: object) -> str:
    """Return an option's value as the table of options says it."""
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return count_text(value) if isinstance(value, int) else _option_text(name, value)


def _options(config: RunConfig) -> Table:
    rows = []
    for part in (config.data, config.model, config.train):
        for field in fields(part):
            option = "model" if field.name == "name" else field.name
            rows.append((option, _shown(field.name, getattr(part, field.name))))
    return Table("Options", ("Option", "Value"), tuple(rows))


def _preprocessing(preprocessing: Mapping[str, Any]) -> Table:
    height, width = preprocessing["image_size"]
    return Table(
        "What is done to a picture before the network sees it",
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
    return Table(
        "Hardware",
        ("What", "Value"),
        tuple((name, UNKNOWN if value is None else str(value)) for name, value in shown.items()),
    )
