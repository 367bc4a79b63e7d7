"""Everything needed to repeat the run: options, versions, hardware and the command."""

from collections.abc import Mapping
from typing import Any

from convscope.config import RunConfig, config_from_json, option_text, options
from convscope.pages.section import RecordedRun, titled
from convscope.pages.text import UNKNOWN, bytes_text, count_text
from convscope.results.panels import Table


@titled(
    "Configuration",
    "The command below repeats the run: on the same machine with the same versions it gives the same numbers, "
    "elsewhere nearly the same.",
    command=lambda run: run.facts.get("command", ""),
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


def _value_text(name: str, value: object) -> str:
    """Return an option's value as text for the table of options."""
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return count_text(value) if isinstance(value, int) else option_text(name, value)


def _options(config: RunConfig) -> Table:
    given = {each.name: getattr(getattr(config, each.config), each.name) for each in options().values()}
    texts = {name: _value_text(name, value) for name, value in given.items()}
    if config.only_head:
        texts["epochs"] += " (none trained: a head was fitted)"
    return Table(
        "Options", ("Option", "Value"), (("source", config.data.source), ("model", config.model.name), *texts.items())
    )


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
