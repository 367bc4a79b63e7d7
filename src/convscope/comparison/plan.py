"""Which runs a comparison consists of, and in which folders they are found again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import NoneType
from typing import Any, Unpack, cast

from convscope.comparison.recorded import network_key
from convscope.config import Option, RunConfig, check_range, options
from convscope.errors import RunError, UsageError, unknown_name
from convscope.run.configure import Options, make_config
from convscope.storage.files import file_name

SWITCHES = {"on": True, "off": False}


def plan_runs(
    data: str,
    *,
    models: Sequence[str] | None,
    seeds: int,
    vary: Sequence[str] = (),
    **given: Unpack[Options],
) -> list[RunConfig]:
    """Return the runs of a comparison: every model with every combination of the varied options and every seed.

    Args:
        models: names; None is the network that the options say, or `auto`.
        vary: `NAME=VALUE,VALUE` each, for example `normalize=on,off` or `augment=none,flip+crop`.
        given: options of all runs; see `make_config`.

    Raises:
        UsageError: a name or value is not valid, or there is only one network.
    """
    check_range("seeds", seeds, least=1)
    varied = dict(map(_parse_variation, vary))
    configs: dict[str, RunConfig] = {}
    for model in models or (None,):
        for values in product(*varied.values()):
            config = make_config(data, model, **cast("Options", given | dict(zip(varied, values, strict=True))))
            configs.setdefault(network_key(config), config)
    if len(configs) < 2:
        raise UsageError("there is only one network; name two, as in --models mlp,cnn, or --vary normalize=on,off")
    return [
        replace(config, train=replace(config.train, seed=seed)) for seed in range(seeds) for config in configs.values()
    ]


def _parse_variation(text: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    name = name.strip().replace("-", "_")
    known = [each.name for each in options().values() if each.panel is not None and each.name != "seed"]
    if name not in known:
        raise unknown_name("option to vary", name, known)
    if not values:
        raise UsageError(f"--vary {text} names no values; for example --vary normalize=on,off")
    return name, [_parse_value(options()[name], value.strip()) for value in values.split(",")]


def _parse_value(option: Option, text: str) -> Any:  # noqa: ANN401
    """Return the value of an option by its type; the opposite of `option_text`."""
    kinds = option.kinds
    if text == "none" and kinds & {NoneType, tuple}:
        return () if tuple in kinds else None
    if bool in kinds:
        if text not in SWITCHES:
            raise UsageError(f"--vary {option.name}: {text!r} is neither on nor off")
        return SWITCHES[text]
    try:
        if tuple in kinds:
            return tuple(map(float, text.split("/"))) if option.name == "split" else tuple(text.split("+"))
        return int(text) if int in kinds else float(text) if float in kinds else text
    except ValueError:
        raise UsageError(f"--vary {option.name}: {text!r} is not a number") from None


# ---------------------------------------------------------------- where runs lie


def run_folder(folder: Path, config: RunConfig) -> Path:
    """Return the folder of a configuration's run in that of a comparison."""
    key = json.dumps([network_key(config), config.data.source])
    name = file_name(config.model.name)
    return folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}-seed{config.train.seed}"


def is_finished(run: Path) -> bool:
    """Say whether a run has results."""
    return (run / "results.json").exists()


def find_runs(places: Sequence[Path]) -> list[Path]:
    """Return run folders: those that are named, and all in a folder of a comparison that is named.

    Raises:
        RunError: a place is neither.
    """
    found = []
    for place in places:
        runs = [place] if (place / "run.json").exists() else sorted(path.parent for path in place.glob("*/run.json"))
        if not runs:
            raise RunError(
                f"{place} holds no run; name run folders, or data with the networks to compare on them, "
                "as in: convscope compare mnist5k --models mlp,cnn"
            )
        found += runs
    return found
