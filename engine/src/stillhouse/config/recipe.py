"""The recipe: a run as typed data, and its TOML form."""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from stillhouse.config.data import DataSpec
from stillhouse.config.model import ModelSpec
from stillhouse.config.overrides import apply_override
from stillhouse.config.run import CheckpointSpec, DistributedSpec, OptimizerSpec, RunSpec
from stillhouse.config.run_options import EarlyStoppingSpec, EmaSpec, SpeedSpec
from stillhouse.config.structure import structure, unstructure
from stillhouse.config.task import TaskSpec
from stillhouse.config.teacher import TeacherSpec
from stillhouse.errors import Fault, StillhouseError, did_you_mean
from stillhouse.schedule import Schedule

__all__ = ["BESIDE_THE_RESULT", "Recipe"]


_WITH_RECIPES = ("student", "teacher")
"""The tables that may name another recipe, to be trained before."""

BESIDE_THE_RESULT = ("name", "base", "device", "log_every", "figures", "threads")
"""The keys of ``[run]`` that do not decide what a run comes to."""


def _positive(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and value <= 0:
        raise StillhouseError(f"{value} is not above 0", where=attribute.name)


def _not_negative(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value < 0:
        raise StillhouseError(f"{value} is below 0", where=attribute.name)


@attrs.frozen(kw_only=True)
class RunSpec:
    """The recipe's ``[run]``.

    Attributes:
        name: what the run is called; its folder is ``runs/NAME`` unless told otherwise.
        epochs: passes over the training data.
        seed: every random number of the run follows from it.
        device: ``auto`` (CUDA when there is one, else CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        precision: dtype of the models' forward passes; ``bfloat16`` and ``float16`` run them under autocast, and
            ``float16`` scales the loss so that small gradients survive. Losses and methods are computed in float32
            either way.
        accumulate: parts that each batch goes through the models in, one after the other, before the optimizer steps:
            less memory for the same gradient. Batch statistics are those of a part.
        log_every: steps between two points in TensorBoard, and between two looks for non-finite losses.
        validate_every: epochs between two measurements of the validation split, for epochs that are short beside it; it
            is measured after the last epoch in any case. Only epochs that are measured can be the best one.
        figures: draw the pictures of task and plugins for TensorBoard; a picture can take longer than a short epoch.
        threads: torch's CPU threads; None leaves torch's own choice.
        test: measure the test split at the end; false for runs that choose a setting, which must not see it.
        base: folder that relative paths and modules of this recipe are found from; the recipe file's own by default.
    """

    name: str = "run"
    epochs: int = attrs.field(default=20, validator=_positive)
    seed: int = attrs.field(default=0, validator=_not_negative)
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    accumulate: int = attrs.field(default=1, validator=_positive)
    log_every: int = attrs.field(default=50, validator=_positive)
    validate_every: int = attrs.field(default=1, validator=_positive)
    figures: bool = True
    threads: int | None = attrs.field(default=None, validator=_positive)
    test: bool = True
    base: str = ""


@attrs.frozen(kw_only=True)
class TeacherSpec:
    """The recipe's ``[teacher]``: where the frozen model comes from. One of the first four is needed.

    Attributes:
        recipe: another recipe, by its file (or as a table): trained once, then found again by its content.
        checkpoint: a file of weights for ``model``: a state dict (.pt, .safetensors) or a run's checkpoint.
        pretrained: the weights that ``model``'s source offers.
        random: ``model`` as it is initialised: a control.
        same_labels: with ``recipe``: the recipe is trained on the samples that the student is trained on, so that it
            knows no more labels: ``per_class``, ``limit`` and their seed are the student's. None: as the recipe says.
        model: what to build, as in ``[student]``; with ``recipe`` the recipe's student.
        args: its arguments.
        given: true in the recipe of a run whose teacher was handed over from Python: `model` is its class, and no recipe
            can build it again.
    """

    recipe: dict[str, Any] | None = None
    checkpoint: str | None = None
    pretrained: bool = False
    random: bool = False
    same_labels: bool | None = None
    model: str | None = None
    args: dict[str, Any] = attrs.field(factory=dict)
    given: bool | None = None

    def __attrs_post_init__(self) -> None:
        sources = ("recipe", "checkpoint", "pretrained", "random", "given")
        given = [name for name in sources if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            what = "says not where the teacher comes from" if not given else f"has {' and '.join(given)} at once"
            raise StillhouseError(
                what,
                hint='one of: recipe = "teacher.toml", checkpoint = "file.pt", pretrained = true, random = true',
            )
        if self.recipe is None and self.model is None:
            raise StillhouseError("this key is missing", where="model", hint='such as "torchvision:resnet34"')
        if self.recipe is not None and (self.model or self.args):
            raise StillhouseError("has recipe and model at once", hint="the model is the recipe's student")
        if self.same_labels and self.recipe is None:
            raise StillhouseError("is for a teacher given by a recipe", where="same_labels")


@attrs.frozen(kw_only=True)
class OptimizerSpec:
    """The recipe's ``[optimizer]``.

    Attributes:
        name: a class of torch.optim in small letters (``adamw``, ``sgd``), or ``package.module:Class``.
        lr: learning rate, before the schedule.
        weight_decay: None leaves the optimizer's own default.
        clip_norm: gradients of all parameters together are scaled down to this Euclidean norm; None: as they are.
        args: further arguments: ``{ momentum = 0.9 }``.
    """

    name: str = "adamw"
    lr: float = attrs.field(default=1e-3, validator=_positive)
    weight_decay: float | None = None
    clip_norm: float | None = attrs.field(default=None, validator=_positive)
    args: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class DistributedSpec:
    """The recipe's ``[distributed]``, for runs of several processes; one process takes no notice.

    Attributes:
        shard: whose parameters are spread over the processes by FSDP2, for a model that is too large for one GPU:
            ``none``, ``teacher``, ``student`` or ``both``.
        find_unused: whether DDP looks in every step for parameters that got no gradient: ``auto`` where a loss weight
            follows a schedule, ``yes`` for a student with parts that its output does not depend on.
        sync_batchnorm: turn the student's BatchNorm into torch's SyncBatchNorm, whose statistics are those of the whole
            batch; CUDA only.
    """

    shard: Literal["none", "teacher", "student", "both"] = "none"
    find_unused: Literal["auto", "yes", "no"] = "auto"
    sync_batchnorm: bool = False


@attrs.frozen(kw_only=True)
class CheckpointSpec:
    """The recipe's ``[checkpoints]``. The last one is written at the end of every epoch.

    Attributes:
        every_steps: the last one is written every so many steps as well.
        keep_every: one that stays is written every so many epochs.
        best: keep the one with the best validation score.
    """

    every_steps: int | None = attrs.field(default=None, validator=_positive)
    keep_every: int | None = attrs.field(default=None, validator=_positive)
    best: bool = True


@attrs.frozen(kw_only=True)
class Recipe:
    """A run: what is trained, on what, how, and with which plugins.

    Attributes:
        run: name, epochs, seed, device.
        data: see :class:`stillhouse.data.DataSpec`.
        student: see :class:`stillhouse.models.ModelSpec`.
        task: see :class:`stillhouse.config.task.TaskSpec`.
        teacher: None trains without one.
        optimizer: and its learning rate.
        schedule: factor of the learning rate over the run; its ``peak`` is 1.
        checkpoints: when they are written.
        distributed: how several processes share the work.
        speed: the same run, computed faster.
        ema: None keeps no average of the weights.
        early_stopping: None trains for all epochs.
        plugins: the method: ``{ use = "features", ... }``, in order.
    """

    run: RunSpec = attrs.field(factory=RunSpec)
    data: DataSpec
    student: ModelSpec
    task: TaskSpec = attrs.field(factory=TaskSpec)
    teacher: TeacherSpec | None = None
    optimizer: OptimizerSpec = attrs.field(factory=OptimizerSpec)
    schedule: Schedule = attrs.field(factory=Schedule)
    checkpoints: CheckpointSpec = attrs.field(factory=CheckpointSpec)
    distributed: DistributedSpec = attrs.field(factory=DistributedSpec)
    speed: SpeedSpec = attrs.field(factory=SpeedSpec)
    ema: EmaSpec | None = None
    early_stopping: EarlyStoppingSpec | None = None
    plugins: tuple[dict[str, Any], ...] = ()

    @classmethod
    def load(cls, path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe from a TOML file.

        Args:
            path: the file.
            overrides: ``a.b=value`` each, as ``--set`` takes them; values in TOML, or else taken as text.

        Raises:
            StillhouseError: no such file, invalid TOML, or every unknown key and wrong value of the file at once.
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
        return tables

    def to_toml(self) -> str:
        """Return the recipe as TOML, every default written out; it loads again as the same recipe."""
        return tomli_w.dumps(self.to_dict())

    def digest(self) -> str:
        """Hash everything that decides the result: all but the run's name, folder, device and logging."""
        tables = self.to_dict()
        for key in BESIDE_THE_RESULT:
            tables["run"].pop(key, None)
        for key, default in (("test", True), ("validate_every", 1)):  # as runs from before these keys have it
            if tables["run"][key] == default:
                del tables["run"][key]
        tables.pop("checkpoints", None)
        for key in _WITH_RECIPES:
            if "recipe" in tables.get(key, {}):
                tables[key]["recipe"] = Recipe.from_dict(tables[key]["recipe"]).digest()
        return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()

    @property
    def base(self) -> Path:
        """The folder that relative paths are found from."""
        return Path(self.run.base)


def read_tables(path: Path) -> dict[str, Any]:
    """A recipe's file as plain tables.

    Raises:
        StillhouseError: no such file, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise StillhouseError("file not found", where=str(path), hint=did_you_mean(path.name, near)) from None
    except IsADirectoryError:
        raise StillhouseError("must be a file, got a folder", where=str(path), hint="RECIPE.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StillhouseError(f"cannot be read: {error}", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise StillhouseError(f"is not valid TOML: {error}", where=str(path)) from None


def _structured(data: Mapping[str, Any], base: Path | None, file: str, asked_by: Sequence[Path] = ()) -> Recipe:
    """:meth:`Recipe.from_dict`; ``asked_by`` are the files that lead here, each of which names the next."""
    tables = copy.deepcopy(dict(data))
    faults: list[Fault] = []
    run = tables.setdefault("run", {})
    if isinstance(run, dict) and not run.get("base"):
        run["base"] = str((base or Path()).resolve())
    chain = [*asked_by, Path(file).resolve()] if file else asked_by
    for key in _WITH_RECIPES:
        model = tables.get(key)
        if not isinstance(model, dict):
            continue
        _read_older(model)
        if "recipe" in model:
            try:
                model["recipe"] = _other_recipe(model["recipe"], Path(run["base"]), chain)
            except StillhouseError as error:
                faults += error.within(f"{key}.recipe").faults
                model["recipe"] = {}
    try:
        recipe: Recipe = structure(tables, Recipe)
    except StillhouseError as error:
        faults = [*error.faults, *faults]
    if faults:
        found = StillhouseError(faults=faults)
        raise found.within(file) if file else found
    return recipe


def _read_older(model: dict[str, Any]) -> None:
    """Bring a table of a run from before the key ``given``, whose ``model`` began with that word, to today's form."""
    name = model.get("model")
    if isinstance(name, str) and name.startswith("given:"):
        model["model"], model["given"] = name.removeprefix("given:"), True
        model.pop("random", None)


def _other_recipe(value: Any, base: Path, asked_by: Sequence[Path]) -> dict[str, Any]:
    if isinstance(value, str):
        path = base / Path(value).expanduser()
        if path.resolve() in asked_by:
            names = [p.name for p in (*asked_by[asked_by.index(path.resolve()) :], path)]
            raise StillhouseError(
                f"{value!r} would have to be trained before itself: {' needs '.join(names)}",
                hint="another recipe, or a checkpoint",
            )
        return _structured(read_tables(path), path.parent, str(path), asked_by).to_dict()
    if not isinstance(value, Mapping):
        raise StillhouseError(f"{value!r} is neither a file nor a table")
    return _structured(value, base, "", asked_by).to_dict()
