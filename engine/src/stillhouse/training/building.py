"""From the parts of a run to one that is ready: assembled, tried out, and nothing trained yet."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric

from stillhouse.assembly.evaluator import try_out
from stillhouse.assembly.failures import explained
from stillhouse.assembly.folded_norms import FoldedNorms, fold_norms
from stillhouse.assembly.walk import assemble
from stillhouse.contract.assembly import Assembly, Rows
from stillhouse.contract.batch import Batch
from stillhouse.loop.composition import Composition
from stillhouse.teachers.identity import identify_sources
from stillhouse.teachers.origins import describe_teacher
from stillhouse.teachers.sources import build_option
from stillhouse.training.checks import check_options, check_scaling
from stillhouse.training.parts import Parts, spread
from stillhouse.training.recomputation import checkpoint_gradients
from stillhouse.training.session import Training
from stillhouse.training.weighing import SampleWeights

__all__ = ["build_training"]


def build_training(
    parts: Parts,
    *,
    folder: Path | None,
    resume: bool,
    inspect_only: bool,
    trained: bool,
    metrics: Mapping[str, Metric] | None = None,
) -> Training:
    """Assemble the run of its parts; nothing is trained and nothing written, but for caches unless ``inspect_only``."""
    recipe, actives, data = parts.recipe, parts.actives, parts.data
    try:
        sources = identify_sources(recipe, parts.needs, parts.student, parts.teachers)
        spread(parts)
        assembly = Assembly(
            recipe=recipe,
            seed=recipe.run.seed,
            device=parts.device,
            student=parts.student,
            teacher=parts.teachers.get("teacher"),
            teachers={name: model for name, model in parts.teachers.items() if name != "teacher"},
            task=parts.task,
            data=data.info,
            rows=Rows(data.info.sizes["train"], lambda: data.passes.ids("train")),
            epochs=recipe.run.epochs,
            steps_per_epoch=data.steps_per_epoch,
            plugins=tuple(a.plugin for a in actives),
            batches=data,
            inspect_only=inspect_only,
            progress=parts.shown,
            find_model=partial(build_option, recipe, parts.needs, data.info, parts.task),
        )
        assembly.notes.update({f"model {name}": describe_teacher(model) for name, model in parts.teachers.items()})
        check_options(assembly, actives)
        if recipe.speed.checkpoint_gradients:
            assembly.notes["model student"] = [f"gradients recomputed: {checkpoint_gradients(parts.student)}"]
        transforms, example = None, data.example()
        if recipe.data.batch_transforms:
            from stillhouse.data.batch_transforms import build_batch_transforms  # and torchvision, which takes a while

            transforms = build_batch_transforms(recipe.data.batch_transforms, data.info, recipe.run.seed, data.example)
            example = transforms(example, 0, 0)
        precision: torch.dtype = getattr(torch, recipe.run.precision)
        with explained(assembly):
            for model in (parts.student, *parts.teachers.values()):
                model.to(parts.device)
            weighing = [] if data.weight_range is None else [SampleWeights()]
            walk = assemble(assembly, actives, example, precision, weighing)
        try:
            check_scaling(assembly, walk.composition.modules_of)
            with explained(assembly):
                folded = _fold_norms(assembly, walk.composition, example)
                training = Training(
                    assembly,
                    walk,
                    actives,
                    data,
                    transforms,
                    folder=folder,
                    resume=resume,
                    progress=parts.shown,
                    sources=sources,
                    teacher_is_trained=trained,
                    metrics=metrics,
                )
                for split in data.splits:
                    if split == "val" or (split != "train" and recipe.run.test):
                        try_out(training.run.evaluator, assembly, walk.composition, data.example(split=split), split)
            for own in folded:
                _look_after(training.run.trainer, own)
            return training
        except BaseException:
            walk.composition.remove_taps()  # the models may be the caller's
            raise
    except BaseException:
        data.close()
        raise


def _look_after(trainer: Engine, folded: FoldedNorms) -> None:
    """Have ``folded`` look at its weights outside of steps, which never wait for a device."""

    def leave_if_moved() -> None:
        trainer.remove_event_handler(leave_if_moved, Events.ITERATION_COMPLETED)  # a filter would be asked in each step
        folded.leave_if_moved()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, leave_if_moved)
    trainer.add_event_handler(Events.EPOCH_COMPLETED | Events.TERMINATE, folded.check_unchanged)


def _fold_norms(assembly: Assembly, composition: Composition, batch: Batch) -> list[FoldedNorms]:
    """Fold the teachers' batch normalisations where the recipe has it, and note it; a compiler does so by itself."""
    speed = assembly.recipe.speed
    if not speed.fold_norms or speed.compiles("teacher") or speed.compile == "step" or not composition.runs_teacher:
        return []
    inputs, _ = composition.place(batch.input, batch.target)
    found = []
    for name, tapped in composition.models.items():
        folded = None if name == "student" else fold_norms(tapped, inputs)
        if folded is not None:
            note = f"batch normalisations folded into the convolutions before them: {folded.count}"
            assembly.notes.setdefault(f"model {name}", []).append(note)
            found.append(folded)
    return found
