"""The recipe: a run as typed data, and its TOML form."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from stillhouse.config.data import DataSpec
from stillhouse.config.environment import expand_environment
from stillhouse.config.home import expand_home, find_path, shorten_home
from stillhouse.config.learning_rate import LearningRateSchedule
from stillhouse.config.model import ModelSpec
from stillhouse.config.overrides import apply_override, list_names
from stillhouse.config.recipe_file import read_tables
from stillhouse.config.run import CheckpointSpec, DistributedSpec, OptimizerSpec, RunSpec
from stillhouse.config.run_options import EarlyStoppingSpec, EmaSpec, SpeedSpec, WatchSpec
from stillhouse.config.structure import structure, unstructure
from stillhouse.config.task import TaskSpec
from stillhouse.config.teacher import TeacherSpec, check_teacher_names
from stillhouse.config.toml import check_tables
from stillhouse.errors import Fault, StillhouseError

__all__ = ["BESIDE_THE_RESULT", "Recipe", "find_nested", "is_beside_the_result"]


BESIDE_THE_RESULT = {
    "run": ("name", "base", "device", "log_every", "figures", "loggers", "keep_predictions"),
    "data": ("eval_batch_size", "workers", "prefetch", "cache"),
    "watch": ("enabled", "budget", "every", "gradients"),
}
"""The keys that do not change a run's result, by table. The number of threads does: sums come in another order."""

_LONGEST = 16
"""Recipes that ask for each other, one after the other."""


@attrs.frozen(kw_only=True)
class Recipe:
    """A run: what is trained, on what, how, and with which plugins.

    Attributes:
        run: name, epochs, seed, device.
        data: see :class:`stillhouse.data.DataSpec`.
        student: see :class:`stillhouse.models.ModelSpec`.
        task: see :class:`stillhouse.config.task.TaskSpec`.
        teacher: None trains without one.
        teachers: further ones beside it, by the name that taps, links and options call them.
        optimizer: and its learning rate.
        schedule: factor of the learning rate over the run; its ``peak`` is 1.
        checkpoints: when they are written.
        distributed: how several processes share the work.
        speed: the same run, computed faster.
        ema: None keeps no average of the weights.
        early_stopping: None trains for all epochs.
        watch: looks at what every plugin does, on a few steps.
        plugins: the method: ``{ use = "features", ... }``, in order.
    """

    run: RunSpec = attrs.field(factory=RunSpec)
    data: DataSpec
    student: ModelSpec
    task: TaskSpec = attrs.field(factory=TaskSpec)
    teacher: TeacherSpec | None = None
    teachers: dict[str, TeacherSpec] = attrs.field(factory=dict)
    optimizer: OptimizerSpec = attrs.field(factory=OptimizerSpec)
    schedule: LearningRateSchedule = attrs.field(factory=LearningRateSchedule)
    checkpoints: CheckpointSpec = attrs.field(factory=CheckpointSpec)
    distributed: DistributedSpec = attrs.field(factory=DistributedSpec)
    speed: SpeedSpec = attrs.field(factory=SpeedSpec)
    ema: EmaSpec | None = None
    early_stopping: EarlyStoppingSpec | None = None
    watch: WatchSpec = attrs.field(factory=WatchSpec)
    plugins: tuple[dict[str, Any], ...] = ()

    def __attrs_post_init__(self) -> None:
        check_teacher_names(self.teachers, has_first=self.teacher is not None)

    @classmethod
    def load(cls, path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe from a file in TOML, YAML or JSON.

        Args:
            path: the file; what it includes is read with it.
            overrides: ``a.b=value`` each, as ``--set`` takes them; values in TOML, or else taken as text.

        Raises:
            StillhouseError: no such file, one that is not of its format, or every unknown key and wrong value of the file at once.
        """
        data = read_tables(Path(path))
        for override in overrides:
            apply_override(data, override)
        return _structured(data, Path(path).parent, str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, base: Path | None = None, file: str = "") -> Recipe:
        """Structure plain tables as a recipe.

        Args:
            data: the tables; not changed.
            base: folder for relative paths where the tables name none; the current one by default.
            file: named in faults.

        Raises:
            StillhouseError: every unknown key and wrong value at once.
        """
        return _structured(data, base, file)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain tables, every default written out."""
        tables: dict[str, Any] = unstructure(self)
        if not self.teachers:
            del tables["teachers"]
        return tables

    def to_toml(self) -> str:
        """Return the recipe as TOML, every default written out, the home folder as ``~``; it loads as the same recipe."""
        return tomli_w.dumps(shorten_home(self.to_dict()))

    def digest(self) -> str:
        """Hash everything that decides the result: not the run's name, folder, device and logging, nor how data is read."""
        tables = self.to_dict()
        for table, keys in BESIDE_THE_RESULT.items():
            for key in keys:
                tables[table].pop(key, None)
        later = (("run", "test", True), ("run", "validate_every", 1), ("speed", "fold_norms", True))
        for table, key, default in later:  # as runs from before these keys have it
            if tables[table][key] == default:
                del tables[table][key]
        tables.pop("watch")
        written = tables.pop("checkpoints")
        # Which epoch is the best decides when early stopping ends the run, and what is measured, exported and taught from.
        tables |= {f"checkpoints.{key}": written[key] for key in ("score", "score_mode") if key in written}
        for _, model in find_nested(tables):
            model["recipe"] = Recipe.from_dict(model["recipe"]).digest()
        return hashlib.sha256(json.dumps(shorten_home(tables), sort_keys=True).encode()).hexdigest()

    def with_plugins(self, tables: Sequence[Mapping[str, Any]], *, give_terms: bool) -> Recipe:
        """The recipe with another list of plugins; without unlabelled samples where none of them gives a loss term.

        Nobody would look at these then, and a run that draws them is not that of the student alone.
        """
        data = self.data if give_terms else self.data.labelled_alone
        return attrs.evolve(self, plugins=tuple(map(dict, tables)), data=data)

    @property
    def base(self) -> Path:
        """The folder that relative paths are found from."""
        return Path(self.run.base)

    @property
    def samples_at_once(self) -> int:
        """The fewest samples that a plugin's terms are taken over at once, in all processes together: of a batch, or a part of it."""
        data = self.data
        whole = data.batch_size
        if data.has_unlabelled and data.terms == "all":
            whole += max(1, round(data.unlabelled_ratio * whole))
        return whole // self.run.accumulate

    @property
    def all_teachers(self) -> dict[str, TeacherSpec]:
        """Every teacher by name: ``teacher``, the first one, then the further ones."""
        return {} if self.teacher is None else {"teacher": self.teacher, **self.teachers}


def is_beside_the_result(key: str) -> bool:
    """Whether a key of a recipe, ``run.name`` or ``run.loggers[0].use``, is one that changes no result."""
    table, _, rest = key.partition(".")
    return rest.partition(".")[0].partition("[")[0] in BESIDE_THE_RESULT.get(table, ())


def _structured(data: Mapping[str, Any], base: Path | None, file: str, asked_by: Sequence[Path] = ()) -> Recipe:
    """:meth:`Recipe.from_dict`; ``asked_by`` are the files that lead here, each of which names the next."""
    try:
        check_tables(data)
        data = expand_environment(data)
    except StillhouseError as error:
        raise (error.within(file) if file else error) from None
    tables = expand_home(copy.deepcopy(dict(data)))
    faults: list[Fault] = []
    run = tables.setdefault("run", {})
    start = (base or Path()).resolve()
    if isinstance(run, dict) and run.get("base") in (None, ""):
        run["base"] = str(start)
    named = run.get("base") if isinstance(run, dict) else None
    start = Path(named) if isinstance(named, str) else start
    chain = [*asked_by, _real(Path(file))] if file else asked_by
    for key in ("student", "teacher"):
        _read_older(tables.get(key))
    for where, model in find_nested(tables):
        try:
            model["recipe"] = _load_nested(model["recipe"], start, chain)
        except StillhouseError as error:
            faults += error.within(f"{where}.recipe").faults
            model["recipe"] = {}
    try:
        recipe: Recipe = structure(tables, Recipe)
    except StillhouseError as error:
        faults = [*_point_at_plugins(error.faults, tables.get("plugins")), *faults]
    if faults:
        found = StillhouseError(faults=faults)
        raise found.within(file) if file else found
    return recipe


def _point_at_plugins(faults: Iterable[Fault], plugins: Any) -> list[Fault]:
    """The faults; where an unknown table has the name of a listed plugin, with the place of that plugin's options."""
    listed = [plugin for plugin in plugins if isinstance(plugin, dict)] if isinstance(plugins, list | tuple) else []
    names = {name for plugin in listed for name in list_names(plugin) if isinstance(name, str)}
    return [
        attrs.evolve(fault, hint=f"a plugin's options are in its [[plugins]]: --set plugins.{fault.where}.KEY=VALUE")
        if fault.where in names and fault.what.startswith("unknown key")
        else fault
        for fault in faults
    ]


def find_nested(tables: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables that name another recipe, to be trained before, with their place: models, and options of plugins."""
    models: dict[str, Any] = {key: tables.get(key) for key in ("student", "teacher")}
    teachers, plugins = tables.get("teachers"), tables.get("plugins")
    if isinstance(teachers, Mapping):
        models |= {f"teachers.{name}": model for name, model in teachers.items()}
    for index, plugin in enumerate(plugins if isinstance(plugins, list | tuple) else ()):
        if isinstance(plugin, Mapping):
            models |= {f"plugins[{index}].{option}": value for option, value in plugin.items()}
    yield from ((place, model) for place, model in models.items() if isinstance(model, dict) and "recipe" in model)


def _read_older(model: Any) -> None:
    """Bring a table of a run from before the key ``given``, whose ``model`` began with that word, to today's form."""
    if not isinstance(model, dict):
        return
    name = model.get("model")
    if isinstance(name, str) and name.startswith("given:"):
        model["model"], model["given"] = name.removeprefix("given:"), True
        model.pop("random", None)


def _real(path: Path) -> Path:
    """Where a file really lies; links that lead in a circle stay as they are."""
    return Path(os.path.realpath(path))


def _load_nested(value: Any, base: Path, asked_by: Sequence[Path]) -> dict[str, Any]:
    if isinstance(value, str):
        path = find_path(value, base)
        real = _real(path)
        if real in asked_by:
            names = [p.name for p in (*asked_by[asked_by.index(real) :], path)]
            raise StillhouseError(
                f"{value!r} would have to be trained before itself: {' needs '.join(names)}",
                hint="another recipe, or a checkpoint",
            )
        if len(asked_by) >= _LONGEST:
            raise StillhouseError(f"{value!r} is asked for by more than {_LONGEST} recipes, one after the other")
        return _structured(read_tables(path), path.parent, str(path), asked_by).to_dict()
    if not isinstance(value, Mapping):
        raise StillhouseError(f"must be a recipe's file or table, got {value!r}")
    return _structured(value, base, "", asked_by).to_dict()
