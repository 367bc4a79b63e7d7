"""The comparison as a verb: of finished runs, or of networks that are trained for it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from convscope.comparison.compare import compare_runs, comparison_tables, comparison_to_json
from convscope.comparison.plan import find_runs, plan_runs
from convscope.comparison.runner import train_missing
from convscope.data.decode.resize import Resizing, resize_image
from convscope.data.load import load_images
from convscope.device import process_unchanged
from convscope.errors import ConvscopeError, UsageError
from convscope.memory.predict import budget_of_run
from convscope.pages.charts import MAX_IMAGE_PX
from convscope.pages.comparison import Images, build_comparison_page, shown_images
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.results.comparison import CANNOT_TELL, Comparison, ModelSummary, Pair
from convscope.results.run import guessing_text
from convscope.run.configure import Options, takes_options
from convscope.storage.files import create_folder, file_name, read_json, write_csv, write_json
from convscope.storage.run_folder import read_config
from convscope.storage.run_start import read_start
from convscope.training.interrupts import interruptible


@takes_options
@process_unchanged()
def compare(
    *places: str | Path,
    models: Sequence[str] | None = None,
    seeds: int | None = None,
    vary: Sequence[str] = (),
    out: str | Path | None = None,
    jobs: int | None = None,
    on_progress: OnProgress = ignore_progress,
    **options: Unpack[Options],
) -> tuple[Comparison, Path]:
    """Return a comparison and the folder it was written to; comparison.html in it shows it.

    Args:
        places: finished runs, or folders of comparisons that hold such; or, with `models` or `vary`, one data set.
        models: networks to train on it, those that are not there yet.
        seeds: runs of each; 3 unless given.
        vary: options to train them with and without; see `plan_runs`.
        out: folder for the comparison and the runs that are trained; default: one in runs/ named after the data set,
            or after the first run.
        jobs: runs at once; see `train_missing`.

    Raises:
        ConvscopeError: see errors.py; runs that were finished stay, and the same call goes on from there.
    """
    if models or vary:
        if len(places) != 1:
            raise UsageError(f"networks are compared on one data set; {len(places)} are named")
        configs = plan_runs(str(places[0]), models=models, seeds=3 if seeds is None else seeds, vary=vary, **options)
        folder = Path(out or Path("runs") / f"comparison-{file_name(Path(places[0]).stem)}")
        with interruptible(f"stopped; what is trained is kept in {folder}: the same command goes on from there"):
            create_folder(folder)
            runs = train_missing(configs, folder, jobs=jobs, on_progress=on_progress)
    else:
        asked = {**options, "seeds": seeds, "jobs": jobs}
        given = sorted(name for name, value in asked.items() if value is not None)
        if given:
            raise UsageError(
                f"finished runs are compared as they are, so {given[0]} says nothing; leave it out or name --models"
            )
        runs = find_runs([Path(place) for place in places])
        folder = Path(out or Path("runs") / f"comparison-of-{file_name(runs[0].resolve().name)}")
    comparison = _with_baseline(_with_predicted_memory(compare_runs(runs)), runs[0])
    create_folder(folder)
    write_json(folder / "comparison.json", comparison_to_json(comparison))
    for name, (columns, rows) in comparison_tables(comparison).items():
        write_csv(folder / name, columns, rows)
    build_comparison_page(comparison, folder, _load_images(comparison, runs[0], on_progress))
    return comparison, folder


def _with_baseline(comparison: Comparison, run: Path) -> Comparison:
    """Return the comparison with the accuracy of guessing, which an open verdict names where neither exceeds it."""
    results = read_json(run / "results.json")
    name, baseline = results.get("baseline_class"), results.get("baseline_accuracy")
    if baseline is None:
        return comparison
    low = {model.model: model.accuracy.low for model in comparison.models}

    def judged(pair: Pair) -> Pair:
        best = max(low[pair.a], low[pair.b])
        if pair.verdict != CANNOT_TELL or best > baseline:
            return pair
        return replace(pair, sentence=f"{pair.b} against {pair.a}: {guessing_text(best, baseline, name)}")

    pairs = tuple(map(judged, comparison.pairs))
    return replace(comparison, pairs=pairs, baseline_class=name, baseline_accuracy=baseline)


def _with_predicted_memory(comparison: Comparison) -> Comparison:
    """Return the comparison with the memory of a training step of each network."""

    def predicted(model: ModelSummary) -> int | None:
        run = Path(model.runs[0])
        facts = read_start(run)
        budget = budget_of_run(read_config(run), tuple(facts["model"]["input_shape"]), len(facts["class_names"]))
        return None if budget is None else budget.memory.training_peak_bytes

    models = tuple(replace(model, step_memory_bytes=predicted(model)) for model in comparison.models)
    return replace(comparison, models=models)


def _load_images(comparison: Comparison, run: Path, on_progress: OnProgress) -> Images | str:
    """Return the images that the page shows, read again from the data of a run; or why they cannot be read."""
    wanted = shown_images(comparison)
    if not wanted:
        return {}
    on_progress(Progress("reading the images that networks disagree on", 0, None))
    try:
        images = load_images(read_config(run).data, on_progress)
    except ConvscopeError as error:
        return f"the images cannot be read: {error}"
    if images.fingerprint != read_start(run)["data"]["fingerprint"]:
        return "the images are not shown: the data have changed since the runs were trained"
    index_of = {id_: index for index, id_ in enumerate(images.ids)}
    fit = Resizing(image_size=min(MAX_IMAGE_PX, *images.shape[1:]), gray=images.shape[0] == 1)
    return {id_: resize_image(images.images[index_of[id_]], fit) for id_ in wanted}
