"""Saying what a run is before it runs: the plugins' order and why, shapes at each stage, terms, weights, who trains what."""

from __future__ import annotations

import io
from typing import Any, Protocol

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn
from torch.optim import Optimizer

from stillhouse.assembly.walk import Walk
from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import unstructure
from stillhouse.config.teacher import TeacherSpec
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.run import Run
from stillhouse.data.base import Data
from stillhouse.registry.order import Active
from stillhouse.schedule import Schedule, value_at
from stillhouse.terminal import Terminal, make_table
from stillhouse.training.data_lines import describe_data, render_data
from stillhouse.training.score import describe_score

__all__ = ["describe", "render", "render_text"]


class Explained(Protocol):
    """What is said of a run that is ready to start: see :class:`stillhouse.training.session.Training`."""

    recipe: Recipe
    run: Run
    data: Data
    assembly: Assembly
    walk: Walk
    actives: list[Active]
    optimizer: Optimizer
    teacher_is_trained: bool


def _counts(module: nn.Module) -> tuple[int, int]:
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def describe(training: Explained) -> dict[str, Any]:
    """Everything that :func:`render` shows, as plain data."""
    run, walk, recipe = training.run, training.walk, training.recipe
    total, trainable = _counts(run.student)
    description: dict[str, Any] = {
        "run": recipe.run.name,
        "device": str(run.device),
        "precision": recipe.run.precision,
        "seed": run.seed,
        "data": describe_data(training.data, recipe.data, run.data),
        "score": describe_score(recipe.checkpoints, run.task, run.data.sizes),
        "epochs": run.epochs,
        "steps": run.total_steps,
        "student": {
            "model": _student_name(training),
            "parameters": total,
            "trainable": trainable,
            "notes": walk.notes,
        },
        "teacher": None,
        "teachers": {
            name: {
                "model": _teacher_name(recipe.teachers[name]),
                "parameters": walk.teacher_parameters[name],
                "in_memory": name in run.teachers,
                "runs": walk.composition.runs_teacher,
                "notes": training.assembly.notes.get(f"model {name}", []),
            }
            for name in recipe.teachers
        },
        "taps": walk.taps,
        "plugins": [],
        "losses": [_term("task", "the task", Schedule(), walk.task_loss, run.total_steps)],
        "optimizer": [
            {
                "group": group["name"],
                "parameters": sum(p.numel() for p in group["params"]),
                "lr": group.get("initial_lr", group["lr"]),
                "weight_decay": group.get("weight_decay"),
            }
            for group in training.optimizer.param_groups
        ],
        "schedule": unstructure(recipe.schedule),
    }
    if run.teacher is not None or walk.teacher_gone:
        description["teacher"] = {
            "model": _teacher_name(recipe.teacher),
            "parameters": walk.teacher_parameters["teacher"],
            "trainable": 0,
            "in_memory": not walk.teacher_gone,
            "runs": walk.composition.runs_teacher,
            "trained": training.teacher_is_trained,
            "notes": training.assembly.notes.get("model teacher", []),
        }
    stages = {stage.plugin: stage for stage in walk.stages}
    for active in training.actives:
        stage = stages[active.name]
        options = {k: v for k, v in unstructure(active.plugin).items() if k not in ("name", "weight")}
        description["plugins"].append(
            {
                "name": active.name,
                "use": active.use,
                "distribution": active.distribution,
                "version": active.version,
                "order": active.reason,
                "options": options,
                "notes": training.assembly.notes.get(active.name, []),
                "trainable_parameters": stage.parameters,
                "links": {name: {"student": s, "teacher": t} for name, (s, t) in stage.links.items()},
            }
        )
        weight = getattr(active.plugin, "weight", 1.0)
        if isinstance(weight, Schedule):
            weight = weight.to_steps(run.total_steps, run.steps_per_epoch)
        description["losses"] += [
            _term(term, active.name, weight, value, run.total_steps) for term, value in stage.terms.items()
        ]
    return description


def _student_name(training: Explained) -> str:
    spec = training.recipe.student
    start = "" if spec.recipe is None else f", from what the recipe {spec.recipe['run']['name']!r} gives"
    return spec.model + start


def _teacher_name(spec: TeacherSpec | None) -> str:
    if spec is None:
        return ""
    if spec.recipe is not None:
        return f"{spec.recipe['student']['model']}, trained by the recipe {spec.recipe['run']['name']!r}"
    origins = {"handed over": spec.given, "random": spec.random, "pretrained": spec.pretrained}
    origin = next((text for text, holds in origins.items() if holds), f"from {spec.checkpoint}")
    return f"{spec.model or 'the student of a run'} ({origin})"


def _term(term: str, plugin: str, weight: float | Schedule, value: float, steps: int) -> dict[str, Any]:
    scheduled = isinstance(weight, Schedule) and weight != Schedule(peak=weight.peak)
    return {
        "term": term,
        "from": plugin,
        "weight": {
            "first": value_at(weight, 0, steps),
            "middle": value_at(weight, steps // 2, steps),
            "last": value_at(weight, max(steps - 1, 0), steps),
        },
        "schedule": attrs.asdict(weight) if scheduled and isinstance(weight, Schedule) else None,
        "at_start": value,
    }


def render(description: dict[str, Any], console: Console) -> None:
    """Print a description as tables."""
    data = description["data"]
    console.print(
        Text.assemble(
            (description["run"], "bold"),
            f": {description['epochs']} epochs, {description['steps']} steps on "
            f"{description['device']}, {description['precision']}, seed {description['seed']}",
        )
    )
    for line in render_data(data):
        console.print(line, highlight=False, markup=False)
    if description["score"]:
        console.print(f"score    {description['score']}", highlight=False, markup=False)
    student, teacher = description["student"], description["teacher"]
    console.print(
        f"student  {student['model']}: {student['trainable']:,} of {student['parameters']:,} parameters trained",
        highlight=False,
        markup=False,
    )
    for note in student["notes"]:
        console.print(f"         {note}", highlight=False, markup=False)
    if teacher:
        idle = "" if teacher["runs"] else "; no plugin reads it, so it is not run"
        if not teacher["in_memory"]:
            idle = "; read once into a cache, and not in memory during training"
        if not teacher["trained"]:
            idle += "; left untrained here, and the values at start are of that"
        console.print(
            f"teacher  {teacher['model']}: {teacher['parameters']:,} parameters, frozen{idle}",
            highlight=False,
            markup=False,
        )
        for note in teacher["notes"]:
            console.print(f"         {note}", highlight=False, markup=False)
    for name, further in description["teachers"].items():
        idle = "" if further["runs"] else "; no plugin reads it, so it is not run"
        if not further["in_memory"]:
            idle = "; not in memory during training"
        console.print(
            f"{name:<8} {further['model']}: {further['parameters']:,} parameters, frozen{idle}",
            highlight=False,
            markup=False,
        )
        for note in further["notes"]:
            console.print(f"         {note}", highlight=False, markup=False)
    if description["plugins"]:
        console.print(_plugin_table(description))
        for plugin in description["plugins"]:
            for note in plugin["notes"]:
                console.print(f"{plugin['name']}: {note}", highlight=False, markup=False)
        if any(p["links"] for p in description["plugins"]):
            console.print(_shape_table(description))
    console.print(_loss_table(description))
    console.print(_optimizer_table(description))


def _plugin_table(description: dict[str, Any]) -> Table:
    table = make_table("", "plugin", "from", "why here", "options", title="plugins, in order")
    for place, plugin in enumerate(description["plugins"], 1):
        named = plugin["name"] if plugin["name"] == plugin["use"] else f"{plugin['name']} ({plugin['use']})"
        source = f"{plugin['distribution']} {plugin['version']}".strip() or "Python"
        options = "\n".join(f"{k} = {_option(v)}" for k, v in plugin["options"].items())
        table.add_row(str(place), named, source, plugin["order"], options)
    return table


def _option(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_option(v) for v in value) + "]"
    if isinstance(value, dict):
        if isinstance(value.get("recipe"), dict):  # a model of another run: its name says enough
            return f"the student of {value['recipe'].get('run', {}).get('name', 'run')!r}"
        return "{" + ", ".join(f"{k} = {_option(v)}" for k, v in value.items() if v not in ("", 0, None)) + "}"
    return repr(value) if isinstance(value, str) else str(value)


def _shape_table(description: dict[str, Any]) -> Table:
    table = make_table("link", "after", "student", "teacher", title="shapes on a batch of two")
    names = dict.fromkeys(name for p in description["plugins"] for name in p["links"])
    for name in names:
        before: dict[str, str] | None = None
        for plugin in description["plugins"]:
            pair = plugin["links"].get(name)
            if pair is None or pair == before:
                continue
            table.add_row(name if before is None else "", plugin["name"], pair["student"], pair["teacher"])
            before = pair
    return table


def _loss_table(description: dict[str, Any]) -> Table:
    table = make_table("term", "weight", "value at start", title="loss")
    for term in description["losses"]:
        weight = term["weight"]
        text = f"{weight['first']:g}"
        if term["schedule"]:
            text = f"{weight['first']:.3g} first, {weight['middle']:.3g} halfway, {weight['last']:.3g} last"
        table.add_row(term["term"], text, f"{term['at_start']:.4g}")
    return table


def _optimizer_table(description: dict[str, Any]) -> Table:
    table = make_table("group", "parameters", "learning rate", "weight decay", title="trained parameters")
    for group in description["optimizer"]:
        decay = group.get("weight_decay")
        table.add_row(
            group["group"], f"{group['parameters']:,}", f"{group['lr']:g}", "-" if decay is None else f"{decay:g}"
        )
    return table


def render_text(description: dict[str, Any]) -> str:
    """:func:`render` as plain text, 110 columns wide."""
    buffer = io.StringIO()
    render(description, Terminal(file=buffer, width=110, color_system=None, legacy_windows=False))
    return buffer.getvalue()
