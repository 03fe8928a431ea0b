"""Every hook a plugin can implement, grouped by what it is for; docs/events.md has the order of a run.

A plugin takes the arguments it wants, by name. Hooks are called in the order of the plugin list after ``before`` and
``after`` have been applied. Hooks before and after training take ``assembly``, a
:class:`stillhouse.contract.assembly.Assembly`; hooks of training take ``run``, a :class:`stillhouse.contract.run.Run`, or
``step``, a :class:`stillhouse.contract.step.Step`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from ignite.metrics import Metric
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from stillhouse.contract.assembly import Assembly
    from stillhouse.contract.run import Run
    from stillhouse.contract.step import LinkSpec, Step, Tap

PROJECT = "stillhouse"
"""The name under which pluggy knows this project."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method of a plugin as the implementation of the hook of the same name."""


class AssemblingHooks:
    """Before training, once: which layers are read, which modules are added, which features are paired."""

    @hookspec
    def adapt(self, assembly: Assembly, student: nn.Module) -> nn.Module | None:
        """Change the student before anything is attached to it: return it changed in place, or another module; None leaves it. The mirror image of ``export``, which takes the change back.

        What is added is the student's: trained in the student's parameter group (``optimizer_options`` can take it out), measured with it, and saved under ``student.``. ``assembly.teacher`` and ``assembly.batches`` are there, for a pass of the teacher over the data; the optimizer and the trainer are not. In a run that is only looked at or loaded (``assembly.inspect_only``) do nothing that takes long and write nothing; a run that is loaded has no batches (``assembly.batches`` is None), and may have no teacher. A module whose tensors' shapes follow from the data has a method ``fit_to(state)`` that gives them the shapes of its own state dict ``state``; it is called before a checkpoint is loaded.
        """
        raise AssertionError("a specification")

    @hookspec
    def add_taps(self, assembly: Assembly) -> Iterable[Tap]:
        """Name the layers to read. No forward pass has happened yet; ``assembly.layers`` finds layers by path or glob."""
        raise AssertionError("a specification")

    @hookspec
    def build(self, assembly: Assembly) -> nn.Module | None:
        """Make the module that holds all of the plugin's tensors. ``assembly.links`` and ``assembly.features`` show the shapes that reach this plugin."""
        raise AssertionError("a specification")

    @hookspec
    def add_links(self, assembly: Assembly) -> Iterable[LinkSpec]:
        """Pair student with teacher features. The links belong to this plugin, which takes its distance on them alone."""
        raise AssertionError("a specification")

    @hookspec
    def optimizer_options(self, assembly: Assembly) -> Mapping[str, Any]:
        """Options of the optimizer's parameter group for this plugin's module, such as ``{"weight_decay": 0.0}``. The key ``student`` is a list of globs over the student's parameters that go into this group instead of the student's."""
        raise AssertionError("a specification")


class StepHooks:
    """In every training step, before the backward pass. A step is sealed: each hook writes what is its own, and any other write raises."""

    @hookspec
    def prepare_batch(self, step: Step) -> None:
        """Replace ``step.inputs``, ``step.targets`` or ``step.ids`` before any forward pass, as far as the plugin's class variable ``changes`` names them.

        The number of samples and the shape of one stay. Called without gradient for each part of the batch, before the first of them goes forward and before the task counts its targets; in training only.
        """
        raise AssertionError("a specification")

    @hookspec(firstresult=True)
    def teacher_forward(self, step: Step) -> Any:
        """Put a ``Side`` into ``step.teacher``, or sides into ``step.teachers``, and return True; without gradient, under the teacher's precision. The first result that is not None wins; the engine then runs every teacher that has no side; a cache may wrap it (``@hookimpl(wrapper=True)``)."""
        raise AssertionError("a specification")

    @hookspec
    def transform(self, step: Step) -> None:
        """Replace ``link.student`` or ``link.teacher``, never in place, of the links it chooses by ``step.match``. With gradient, autocast off."""
        raise AssertionError("a specification")

    @hookspec
    def sample_weights(self, step: Step) -> Tensor:
        """Give a factor for each sample (B,), on the step's device: those of all plugins are multiplied, and the task's loss is the sum of factor times ``step.sample_losses`` over the same count as without, not renormalised. Called without gradient. A task whose loss is no sum over samples refuses the list."""
        raise AssertionError("a specification")

    @hookspec
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """Give scalar loss terms by name (without a slash), on the device, unweighted; ``""`` names the plugin's only term. With gradient, autocast off. The engine multiplies them by the plugin's ``weight`` and skips the call where that is 0."""
        raise AssertionError("a specification")

    @hookspec
    def combine_gradients(self, step: Step, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor | None]:
        """Make one gradient of the terms' own, in place of their sum; one plugin at most may. Once a step, without gradient. ``gradients`` has a tuple for each term of ``step.losses``, aligned with ``step.parameters``, which are the student's and the plugins': the gradient of the term times its weight, summed over the parts of the batch, averaged over the processes, unscaled in float16, and whole where parameters are spread; zeros where the term reaches the parameter not at all. A term at weight 0 is absent. Return one tensor for each of ``step.parameters``, of its shape; None leaves the parameter without a gradient. The first process's answer is everybody's. ``optimizer.clip_norm`` comes afterwards. In a float16 step in which some term overflowed, all gradients are zeros and the optimizer does not step."""
        raise AssertionError("a specification")


class ObservingHooks:
    """Events: ignite's own under ignite's names, four phases of the step, and what is logged and measured. ``step`` is there from ``forward_completed`` on."""

    @hookspec
    def started(self, run: Run) -> None:
        """The run begins, or goes on after a resume."""

    @hookspec
    def epoch_started(self, run: Run) -> None:
        """An epoch begins."""

    @hookspec
    def get_batch_started(self, run: Run) -> None:
        """A batch is about to be asked for."""

    @hookspec
    def get_batch_completed(self, run: Run) -> None:
        """A batch has come."""

    @hookspec
    def iteration_started(self, run: Run) -> None:
        """A step begins."""

    @hookspec
    def forward_completed(self, run: Run, step: Step) -> None:
        """Student and teacher have been called; ``step.links`` are as read, before any ``transform``."""

    @hookspec
    def losses_computed(self, run: Run, step: Step) -> None:
        """All terms and ``step.total`` are there, to be read; no gradient yet."""

    @hookspec
    def backward_completed(self, run: Run, step: Step) -> None:
        """Every gradient is in ``.grad``, which may be written; the optimizer has not moved yet. Called without gradient, once a step."""

    @hookspec
    def optimizer_stepped(self, run: Run, step: Step) -> None:
        """The optimizer has moved. Called without gradient, once a step: the place to write parameters and buffers, to put parameters back on a manifold or to move an average."""

    @hookspec
    def logged(self, run: Run, step: Step, scalars: Mapping[str, float]) -> None:
        """A step has been logged: every ``run.log_every`` steps, before each checkpoint of ``checkpoints.every_steps``, and at the end of an epoch. ``scalars``, which is read only, has each number that TensorBoard gets of it, by tag: ``loss_raw/task``, ``learning_rate/student``, ``plugin/NAME/...``. They are floats already; loss terms and what plugins give are means over all processes."""

    @hookspec
    def iteration_completed(self, run: Run, step: Step) -> None:
        """The step is done."""

    @hookspec
    def epoch_completed(self, run: Run) -> None:
        """The epoch's steps are done; its evaluation and checkpoint come after."""

    @hookspec
    def evaluated(self, run: Run, split: str, metrics: Mapping[str, float]) -> None:
        """A split has been measured: ``val`` after an epoch, ``test`` after the last one, with averaged weights also ``val_ema`` and ``test_ema``; ``val_teacher``, the teacher's own metrics, once. ``run.metrics[split]`` has the same numbers. The student is still in eval mode, with the weights that were measured, and there is no gradient. The command ``evaluate`` does not call it."""

    @hookspec
    def completed(self, run: Run) -> None:
        """The run is done: ``run.metrics`` has every split that it measures. It is too late to change the student."""

    @hookspec
    def dataloader_stop_iteration(self, run: Run) -> None:
        """Ignite's event of an exhausted loader. Stillhouse's training stream has no end, so only a run driven by hand meets it."""

    @hookspec
    def terminate(self, run: Run) -> None:
        """Somebody called ``run.trainer.terminate()``."""

    @hookspec
    def terminate_single_epoch(self, run: Run) -> None:
        """Somebody called ``run.trainer.terminate_epoch()``. The epoch counts as one; its other batches come first in the next, and the run has done fewer steps than it was planned for, which ``--resume`` makes up for."""

    @hookspec
    def interrupt(self, run: Run) -> None:
        """Somebody called ``run.trainer.interrupt()``, ignite's way to pause an engine: ``fit`` returns what it has, and no checkpoint holds that step. ``run.trainer.terminate()`` ends a run with one."""

    @hookspec
    def exception_raised(self, run: Run, error: BaseException) -> None:
        """Training failed; called once, and ``error`` goes on upwards whatever the hook does."""


class MeasuringHooks:
    """What is measured and shown."""

    @hookspec
    def metrics(self, assembly: Assembly) -> Mapping[str, Metric]:
        """ignite metrics for the evaluator, whose output is ``{"output": ..., "target": ..., "input": ..., "features": {layer: ...}}``: of the student, in eval mode, ``features`` of its tapped layers. Called again where the run is loaded to be measured; ``assembly.module`` gives what the plugin built."""
        raise AssertionError("a specification")

    @hookspec
    def scalars(self, step: Step) -> Mapping[str, Tensor]:
        """Scalars to log; called only at steps that are logged. Leave them on the device: all are copied at once."""
        raise AssertionError("a specification")

    @hookspec
    def figures(self, run: Run) -> Mapping[str, Figure]:
        """matplotlib figures to show: at the run's end, and after such epochs before it as leave drawing a small share of the time. Called in the first process alone: a model that is spread over processes must not be called, nor its parameters gathered."""
        raise AssertionError("a specification")


class LeavingHooks:
    """After training."""

    @hookspec
    def export(self, assembly: Assembly, student: nn.Module) -> nn.Module:
        """Give the student with what training added folded away; the next plugin receives what this one returns. Called after training, and again whenever the run is loaded: ``assembly.teacher`` is None then, so take what is needed from the plugin's own module."""
        raise AssertionError("a specification")


SPECIFICATIONS = (AssemblingHooks, StepHooks, ObservingHooks, MeasuringHooks, LeavingHooks)


@cache
def hook_arguments() -> dict[str, tuple[str, ...]]:
    """Every hook's name and its arguments, in the order of this file."""
    return {
        name: tuple(a for a in spec.__code__.co_varnames[: spec.__code__.co_argcount] if a != "self")
        for group in SPECIFICATIONS
        for name, spec in vars(group).items()
        if hasattr(spec, "stillhouse_spec")
    }
