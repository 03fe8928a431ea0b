"""A run's model card: in Markdown, what somebody who gets the student has to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import tomli_w

from stillhouse.config.home import shorten_home
from stillhouse.config.kept import KeptWeights
from stillhouse.config.model import ModelSpec
from stillhouse.config.recipe import BESIDE_THE_RESULT, Recipe, find_nested
from stillhouse.config.teacher import TeacherSpec
from stillhouse.errors import StillhouseError
from stillhouse.files import read_table, to_json
from stillhouse.students.evaluation import Measured, evaluate
from stillhouse.students.metadata import describe_preprocessing
from stillhouse.students.saved_run import SavedRun, guarded, open_run
from stillhouse.students.timing import Timing, list_columns, measure
from stillhouse.training.folder import RunFolder
from stillhouse.training.markdown import code, fence, make_table

__all__ = ["make_card"]

_MANY = 30
"""More classes than this are not all named."""
_BATCH = 32
"""Inputs in a batch, for the throughput."""


@guarded
def make_card(
    run: str | Path,
    *,
    weights: KeptWeights | None = None,
    averaged: bool = False,
    measured: bool = False,
    timed: bool = False,
    trust: bool = False,
) -> str:
    """Write a run's model card, in Markdown.

    Without ``measured`` and ``timed`` it is made of what lies in the run's folder, and reads neither data nor weights.

    Args:
        run: the run's folder.
        weights: ``best`` or ``last``, those that the card is for; None: the best where the run has kept them.
        averaged: the averaged weights of a run with ``[ema]``, whatever it measured itself; needs ``measured``.
        measured: measure these weights on every split; else the card has the figures of the run's summary, which are
            those of the last weights.
        timed: measure latency, throughput and size of student and teachers, on one CPU thread.
        trust: see :func:`stillhouse.load_student`.

    Raises:
        StillhouseError: no run, or one that has not ended and is not to be measured either.
    """
    if averaged and not measured:
        raise StillhouseError(
            "needs --evaluate: a run's summary has no figures of its own for them", where="--averaged"
        )
    saved = open_run(run, weights=weights, averaged=averaged)
    summary = _read_summary(saved, needed=not measured)
    found = evaluate(run, split="all", weights=saved.weights, averaged=averaged, trust=trust) if measured else None
    timings = measure(run, batch=_BATCH, trust=trust) if timed else []
    sections = [
        ("", _tell_what(saved, summary)),
        ("Teacher", _tell_teachers(saved.recipe)),
        ("Recipe", _tell_recipe(saved.recipe)),
        ("Data", _tell_data(saved)),
        ("Figures", _tell_metrics(saved, summary) if found is None else _tell_measured(found)),
        ("Size and speed", _tell_timings(timings)),
        ("Use", _tell_use(saved)),
        ("Limits", _tell_limits(saved, summary)),
        ("Licence", _tell_licence(saved)),
    ]
    parts = [f"# {code(saved.recipe.run.name)}"]
    for title, lines in sections:
        text = "\n".join(lines)
        parts += [*([f"## {title}"] if title and text else []), *([text] if text else [])]
    return "\n\n".join(parts) + "\n"


def _read_summary(saved: SavedRun, *, needed: bool) -> dict[str, Any]:
    """The run's summary; empty where there is none and none is needed."""
    path = RunFolder(saved.folder).summary
    if not path.exists():
        if needed:
            hint = "--evaluate measures it as it is"
            raise StillhouseError("the run has no summary.json: it has not ended", where=str(saved.folder), hint=hint)
        return {}
    summary = read_table(path, "a run's summary")
    metrics = summary.get("metrics")
    if not isinstance(metrics, Mapping) or not all(isinstance(values, Mapping) for values in metrics.values()):
        raise StillhouseError("is not a run's summary: it has no metrics by split", where=str(path))
    return summary


def _tell_what(saved: SavedRun, summary: Mapping[str, Any]) -> Iterator[str]:
    recipe, info, lock = saved.recipe, saved.info, saved.lock
    shape = info.eval_shape or info.input_shape
    sides = " (channels, height, width)" if len(shape) == 3 else ""
    taught = "distilled from a teacher" if recipe.all_teachers else "trained"
    yield f"A model for the task {code(recipe.task.name)}, {taught} with Stillhouse.\n"
    yield f"- **Model**: {code(recipe.student.model)}{_tell_arguments(recipe.student.args)}, {_tell_origin(recipe.student)}"
    if isinstance(parameters := summary.get("student_parameters"), int):
        yield f"- **Parameters**: {parameters:,}"
    yield f"- **Input**: {'x'.join(map(str, shape))}{sides}"
    yield f"- **Output**: {saved.task.output_text()}"
    averaged = ", averaged" if saved.averaged else ""
    yield f"- **Weights**: the {saved.weights} ones{averaged}, of optimizer step {saved.step:,}"
    early = (
        f", ended early, after {summary.get('steps_done')} of {summary.get('steps')} steps"
        if summary.get("stopped")
        else ""
    )
    yield f"- **Training**: {recipe.run.epochs:,} epochs{early}, seed {recipe.run.seed}, on {code(str(lock.get('device', '')))}"
    versions = ", ".join(f"{code(name)} {code(str(told))}" for name, told in lock.get("versions", {}).items())
    yield f"- **Versions**: {versions}"


def _tell_arguments(arguments: Mapping[str, Any]) -> str:
    return (
        " with " + ", ".join(code(f"{k} = {v}") for k, v in shorten_home(dict(arguments)).items()) if arguments else ""
    )


def _tell_origin(spec: ModelSpec | TeacherSpec) -> str:
    """Where a model's weights came from."""
    if spec.given:
        return "handed over from Python"
    if spec.recipe is not None:
        return f"with the weights that the recipe {code(str(spec.recipe['run']['name']))} gives"
    if spec.checkpoint is not None:
        return f"with the weights of the file {code(Path(spec.checkpoint).name)}"
    if spec.pretrained:
        return "with its published weights"
    return "with random weights, a control" if isinstance(spec, TeacherSpec) else "from scratch"


def _tell_teachers(recipe: Recipe) -> Iterator[str]:
    if not recipe.all_teachers:
        yield "None."
    for name, spec in recipe.all_teachers.items():
        model, arguments = spec.model, spec.args
        if model is None and spec.recipe is not None:
            model, arguments = spec.recipe["student"]["model"], spec.recipe["student"].get("args", {})
        what = "the model of its run" if model is None else f"{code(model)}{_tell_arguments(arguments)}"
        yield f"- {code(name)}: {what}, {_tell_origin(spec)}"


def _tell_recipe(recipe: Recipe) -> Iterator[str]:
    plugins = ", and every option of the plugins" if recipe.plugins else ""
    yield f"What is not a default{plugins}:\n"
    yield fence(tomli_w.dumps(_shorten(recipe)), "toml")


def _shorten(recipe: Recipe) -> dict[str, Any]:
    """The recipe's tables without what is a default or changes no result; a recipe in it is named alone."""
    tables = recipe.to_dict()
    least = {"data": {"name": recipe.data.name}, "student": {"model": recipe.student.model}}
    defaults = Recipe.from_dict(least).to_dict()
    for _, model in find_nested(tables):
        model["recipe"] = str(model["recipe"]["run"]["name"])
    found: dict[str, Any] = {}
    for name, table in tables.items():
        if isinstance(table, Mapping):
            beside, usual = BESIDE_THE_RESULT.get(name, ()), {**defaults.get(name, {}), **least.get(name, {})}
            named = least.get(name, ())
            kept = {
                key: value
                for key, value in table.items()
                if key not in beside and (key in named or (value != usual.get(key) and value not in (False, {}, [])))
            }
        else:
            kept = table
        if kept:
            found[name] = kept
    shortened: dict[str, Any] = shorten_home(found)
    return shortened


def _tell_data(saved: SavedRun) -> Iterator[str]:
    info, names = saved.info, saved.task.class_names(saved.info)
    yield f"- **Name**: {code(str(shorten_home({'name': saved.recipe.data.name})['name']))}"
    yield "- **Samples**: " + ", ".join(f"{code(split)} {n:,}" for split, n in info.sizes.items())
    if names:
        more = f" and {len(names) - _MANY:,} more" if len(names) > _MANY else ""
        yield f"- **Classes**: {len(names):,}: " + ", ".join(map(code, names[:_MANY])) + more
    if "data" in saved.lock:
        yield f"- **Hash** of content, labels and splits: {code(str(saved.lock['data']))}"


def _tell_metrics(saved: SavedRun, summary: Mapping[str, Any]) -> Iterator[str]:
    """The figures of the run's summary."""
    metrics: Mapping[str, Mapping[str, Any]] = summary["metrics"]
    sizes = saved.info.sizes
    heads = [code(split) + (f" ({sizes[split]:,})" if split in sizes else "") for split in metrics]
    yield _make_metric_table(heads, list(metrics.values()))
    yield "\nOf the last weights."
    best = summary.get("best") or {}
    scores = ", ".join(f"{code(key)} {_format(value)}" for key, value in best.items() if key != "epoch")
    if scores:
        yield f"The best epoch is {best.get('epoch')}, with {scores}."
    if teachers := [split for split in metrics if split.endswith("_teacher")]:
        yield f"{' and '.join(map(code, teachers))}: the teacher's own."


def _tell_measured(found: Measured) -> Iterator[str]:
    heads = [f"{code(split)} ({n:,})" for split, n in found.samples.items()]
    yield _make_metric_table(heads, [found.metrics[split] for split in found.samples])
    yield f"\nOf these weights, the {found.weights} ones."


def _make_metric_table(heads: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for column in columns for name in column)
    return make_table(
        ["metric", *heads], ([code(name), *(_format(column.get(name)) for column in columns)] for name in names)
    )


def _format(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, Real) else "-"


def _tell_timings(timings: Sequence[Timing]) -> Iterator[str]:
    if timings:
        cells = (timing.format_cells() for timing in timings)
        yield make_table(list_columns(_BATCH), ([code(name), *numbers] for name, *numbers in cells))
        yield "\nOn one CPU thread of the machine that wrote this card; in brackets the fastest and the slowest of seven rounds."


def _tell_use(saved: SavedRun) -> Iterator[str]:
    trusted = [word for word in ("--averaged",) if saved.averaged]
    words = " ".join(["stillhouse export RUN --to student.onnx", f"--weights {saved.weights}", *trusted])
    yield "From the run's folder, as a program and as weights for the model's own code:\n"
    yield fence(f"{words}\n{words.replace('.onnx', '.safetensors')}", "sh")
    yield ""
    yield fence(
        "import onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("student.onnx")\n'
        'outputs = session.run(None, {"input": x})  # x: float32, prepared as below',
        "python",
    )
    preparation = describe_preprocessing(saved, in_program=False)
    if preparation is not None:
        yield "\nAn image's way to the input, in this order:\n"
        yield fence(to_json(preparation), "json")


def _tell_limits(saved: SavedRun, summary: Mapping[str, Any]) -> Iterator[str]:
    info, recipe = saved.info, saved.recipe
    if saved.task.class_names(info):
        yield "- It tells apart the classes above and knows no others: whatever it is shown, its answer is made of these."
    yield (
        f"- It has learnt from {info.sizes.get('train', 0):,} samples of one source. On others, of another camera, place or "
        "time, nothing is known of it until it is measured there: `stillhouse evaluate RUN --data ...`."
    )
    if "test" not in info.sizes and "val" in info.sizes:
        yield "- There is no test split: the figures are of the samples by which the best epoch was chosen, and flatter it."
    yield f"- It is one run, of seed {recipe.run.seed}. Another seed gives other figures."
    if len(info.eval_shape or info.input_shape) == 3 and recipe.data.size is not None:
        yield "- Images are resized without regard to their aspect: what is far from the training's is distorted."
    for alarm in summary.get("alarms", ()):
        yield f"- An alarm of the training: {code(str(alarm.get('what')))}"


def _tell_licence(saved: SavedRun) -> Iterator[str]:
    teacher = ", the teacher's weights" if saved.recipe.all_teachers else ""
    yield (
        f"Left open, to be said by whoever publishes it. The training data{teacher} and the code of the model have licences of "
        "their own."
    )
