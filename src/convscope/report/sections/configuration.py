"""What one needs to do the run again: options, versions, hardware and the command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from convscope.config import RunConfig, config_from_json
from convscope.report.section import RecordedRun, Section
from convscope.report.text import UNKNOWN, bytes_text
from convscope.results import Table

ALWAYS_GIVEN = ("epochs", "batch_size", "lr", "optimizer", "schedule", "seed", "split_seed")
"""Options that the command names even where they have their default, which a later version may change."""


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
        command=reproducing_command(config, facts["model"]["name"]),
    )


def reproducing_command(config: RunConfig, model: str) -> str:
    """Return the command line that repeats a run, quoted for a POSIX shell.

    Args:
        model: the network that was really trained; the configuration may say `auto`.
    """
    words = ["convscope", "train", config.data.source]
    if config.model.stack is None:
        words += ["--model", model]
    for part in (config.model, config.train, config.data):
        for field in fields(part):
            value = getattr(part, field.name)
            said_already = field.name == "name" or field.default is MISSING
            if said_already or (value == field.default and field.name not in ALWAYS_GIVEN):
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


def _options(config: RunConfig) -> Table:
    rows = []
    for part in (config.data, config.model, config.train):
        for field in fields(part):
            value = getattr(part, field.name)
            shown = "not set" if value is None or value == () else _option_text(field.name, value)
            option = "model" if field.name == "name" else field.name
            rows.append((option, {"True": "yes", "False": "no"}.get(shown, shown)))
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
