"""Do the laboratory's answers hold on another kind of processor? Every experiment on this one and as on one with AVX2.

Arithmetic in another order ends in other weights, as another seed does. A verdict must not depend on it: what is better
on one kind must not be worse or open on the other, unless one of them says that it is too close to call.

    python benchmarks/lab_machines.py OUT [NAME ...]

An experiment whose lab.json is in OUT already is not run again. For docs/lab.md, copy OUT/this-processor/runs to the
project and run `scripts/lab_docs draw`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import convscope, write_results

from convscope.experiments import LABS
from convscope.experiments.variants import CLOSE

KINDS: dict[str, dict[str, str]] = {
    "this processor": {},
    "as with AVX2": {"DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
"""Kind of processor -> environment that restricts torch's libraries to it."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, help="folder for the experiments")
    parser.add_argument("names", nargs="*", default=list(LABS))
    options = parser.parse_args()
    for name in options.names:
        for kind in KINDS:
            path = _recorded(options.out, kind, name)
            if not path.exists():
                print(name, kind, flush=True)
                path.parents[2].mkdir(parents=True, exist_ok=True)
                environment = {**os.environ, **KINDS[kind]}
                command = convscope("lab", name)
                subprocess.run(command, cwd=path.parents[2], env=environment, stdout=subprocess.DEVNULL, check=True)
    rows = [row for name in LABS for row in _rows(name, options.out)]
    agreements = [row[-1] for row in rows if row[-1] != "read"]
    write_results(
        "lab_machines",
        "The laboratory on two kinds of processors",
        f"Each experiment of `convscope lab` with its default seeds, on this processor and with "
        f"{' '.join(f'{name}={value}' for name, value in KINDS['as with AVX2'].items())}. "
        f"{agreements.count('yes')} of {len(agreements)} verdicts agree; what is too close to call agrees with any.",
        ("experiment", "compared", *KINDS, "agree"),
        rows,
        {"rows": rows},
    )


def _recorded(out: Path, kind: str, name: str) -> Path:
    return out / kind.replace(" ", "-") / "runs" / f"lab-{name}" / "lab.json"


def _rows(name: str, out: Path) -> Iterator[list[str]]:
    """Yield a row for each verdict of an experiment that was run on both kinds; without verdicts one for its answer."""
    paths = [_recorded(out, kind, name) for kind in KINDS]
    if not all(path.exists() for path in paths):
        return
    trees: list[dict[str, Any]] = [json.loads(path.read_text()) for path in paths]
    pairs = [tree["numbers"].get("pairs", ()) for tree in trees]
    for of_kinds in zip(*pairs, strict=True):
        outcomes = [pair["outcome"] for pair in of_kinds]
        agree = len(set(outcomes) - {CLOSE}) < 2
        compared = f"{of_kinds[0]['b']} against {of_kinds[0]['a']}"
        yield [name, compared, *map(_pair_text, of_kinds), "yes" if agree else "NO"]
    if not pairs[0]:
        yield [name, "nothing", *(tree["answer"] for tree in trees), "read"]


def _pair_text(pair: Mapping[str, Any]) -> str:
    return f"{pair['outcome']}, {100 * pair['difference']:+.2f} points, p {pair['p_adjusted']:.2g}"


if __name__ == "__main__":
    main()
