"""The ignite engines: events reach hooks and handlers, the teacher stays out, errors name their plugin."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from ignite.engine import Events
from support import FEATURES, TinyNet, recipe, same_state
from torch import nn

from stillhouse import LinkSpec, Plugin, StillhouseError, Tap, Weight, hookimpl, plugin, prepare, train
from stillhouse.contract.hookspecs import ObservingHooks
from stillhouse.contract.step import Side
from stillhouse.loop.phases import Phase

OBSERVING = [name for name in vars(ObservingHooks) if not name.startswith("_")]


def make_recorder() -> type[Plugin]:
    """A plugin that notes every observing hook that is called, with the gradient mode it saw."""
    calls: list[str] = []

    def hook(name: str) -> Any:
        if name == "exception_raised":

            def call(self: Any, run: Any, error: Any) -> None:
                calls.append(name)
        else:

            def call(self: Any, run: Any) -> None:
                calls.append(name + ("" if torch.is_grad_enabled() else " without gradient"))

        call.__name__ = name
        return hookimpl(call)

    made = plugin(type("Recorder", (Plugin,), {"__doc__": "x", **{n: hook(n) for n in OBSERVING}}))
    made.recorded = calls
    return made


def test_every_event_reaches_the_hook_of_its_name_in_order():
    recorder = make_recorder()
    train(recipe(run__epochs=1), plugins=[recorder()], write=False)
    step = [
        "get_batch_started",
        "get_batch_completed",
        "iteration_started",
        "forward_completed",
        "losses_computed",
        "backward_completed without gradient",
        "optimizer_stepped without gradient",
        "iteration_completed",
    ]
    logged = [*step[:-1], "logged", step[-1]]
    evaluated = "evaluated without gradient"
    assert recorder.recorded == [
        *("started", "epoch_started"),
        *(*step, *logged, *logged),  # of three steps every second one, and the last
        *("epoch_completed", evaluated),
        *(evaluated, "completed"),
    ]


def test_events_off_the_usual_path_reach_their_hooks():
    recorder = make_recorder()
    training = prepare(recipe(run__epochs=2), plugins=[recorder()], write=False)
    trainer = training.run.trainer
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), trainer.terminate_epoch)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), trainer.terminate)
    training.fit()
    assert "terminate_single_epoch" in recorder.recorded
    assert "terminate" in recorder.recorded


@pytest.mark.parametrize("phase", [*Phase, *(e for e in Events if e.name in {"EPOCH_STARTED", "ITERATION_COMPLETED"})])
def test_ignite_handlers_attach_early_and_late(phase: Any):
    seen: list[str] = []
    training = prepare(recipe(run__epochs=2), write=False)
    trainer = training.run.trainer
    trainer.add_event_handler(phase, lambda: seen.append("early"))
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=1), lambda: trainer.add_event_handler(phase, lambda: seen.append("late"))
    )
    training.fit()
    per_epoch = 1 if phase is Events.EPOCH_STARTED else 3
    assert seen.count("early") == 2 * per_epoch
    assert seen.count("late") == per_epoch


def test_a_phase_without_listeners_is_not_fired(monkeypatch: pytest.MonkeyPatch):
    training = prepare(recipe(run__epochs=1), write=False)
    fired: list[Any] = []
    trainer = training.run.trainer
    fire = trainer.fire_event
    monkeypatch.setattr(trainer, "fire_event", lambda event: (fired.append(event), fire(event)))
    trainer.add_event_handler(Phase.LOSSES_COMPUTED, lambda: None)
    training.fit()
    assert fired == [Phase.LOSSES_COMPUTED] * 3


@plugin
class Failing(Plugin):
    """Fails in one hook, and notes when it is told of it."""

    hook: str = "transform"
    told: ClassVar[list[str]] = []
    weight: Weight = 1.0

    @hookimpl
    def transform(self, step):
        if self.hook == "transform" and step.iteration == 1:
            raise ZeroDivisionError("on purpose")

    @hookimpl
    def losses(self, step):
        if self.hook == "losses" and step.iteration == 1:
            raise ZeroDivisionError("on purpose")
        return {}

    @hookimpl
    def epoch_started(self, run):
        if self.hook == "epoch_started":
            raise ZeroDivisionError("on purpose")

    @hookimpl
    def exception_raised(self, run, error):
        self.told.append(type(error).__name__)


@pytest.mark.parametrize("hook", ["transform", "losses", "epoch_started"])
def test_an_error_in_a_hook_names_plugin_hook_and_step_and_is_told_once(hook: str):
    Failing.told.clear()
    with pytest.raises(ZeroDivisionError) as caught:
        train(recipe(), plugins=[Failing(hook=hook, name="culprit")], write=False)
    (note,) = caught.value.__notes__
    assert note.startswith(f"in plugin 'culprit', hook {hook!r}, epoch 1")
    assert hook == "epoch_started" or note.endswith("step 2")
    assert Failing.told == ["ZeroDivisionError"]


@pytest.mark.parametrize("when", ["early", "late"])
def test_no_handler_can_swallow_an_exception(when: str):
    training = prepare(recipe(run__epochs=3), plugins=[Failing()], write=False)
    trainer, heard, epochs = training.run.trainer, [], []

    def swallow(_engine: Any, error: Exception) -> None:
        heard.append(str(error))

    if when == "early":
        trainer.add_event_handler(Events.EXCEPTION_RAISED, swallow)
    else:
        trainer.add_event_handler(
            Events.ITERATION_STARTED(once=1), lambda: trainer.add_event_handler(Events.EXCEPTION_RAISED, swallow)
        )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: epochs.append(1))
    with pytest.raises(ZeroDivisionError):
        training.fit()
    assert heard
    assert not epochs


def test_a_handler_with_a_default_argument_gets_what_ignite_gives_and_hooks_get_the_run():
    seen: list[Any] = []

    @plugin
    class Default(Plugin):
        """Its hook has a default argument."""

        @hookimpl
        def started(self, run=None):
            seen.append(run)

    training = prepare(recipe(run__epochs=1), plugins=[Default()], write=False)
    training.fit()
    assert seen in ([training.run], [None])
    assert seen != [training.run.trainer]


# The teacher ----------------------------------------------------------------------------------------------------------


def test_the_teacher_is_frozen_in_eval_mode_and_in_nobodys_books():
    training = prepare(recipe(FEATURES, {"use": "projector"}), write=False)
    teacher, composition = training.run.teacher, training.run.composition
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    seen: list[tuple[bool, bool]] = []
    teacher.body.register_forward_hook(lambda m, _i, o: seen.append((m.training, o.requires_grad)))
    training.fit()
    assert set(seen) == {(False, False)}
    assert same_state(before, teacher.state_dict())
    mine = {id(p) for p in teacher.parameters()}
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not mine & {id(p) for p in composition.parameters()}
    assert not mine & {id(p) for g in training.optimizer.param_groups for p in g["params"]}
    assert not any("teacher" in key for key in composition.state_dict())


def test_a_trainable_projection_of_the_teachers_features_gets_gradient():
    plugins = [FEATURES, {"use": "projector", "kind": "linear", "side": "teacher"}]
    training = prepare(recipe(*plugins), write=False)
    parameters = list(training.run.module(training.actives[1].plugin).parameters())
    before = [p.detach().clone() for p in parameters]
    training.fit()
    assert parameters
    assert all(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


@pytest.mark.parametrize("share", ["the model", "a module", "a tensor"])
def test_a_teacher_that_shares_with_the_student_is_refused(share: str):
    student, teacher = TinyNet(), TinyNet()
    if share == "the model":
        teacher = student
    elif share == "a module":
        teacher.body = student.body
    else:
        teacher.body.weight = student.body.weight
    with pytest.raises(StillhouseError, match="share"):
        prepare(recipe(FEATURES), student=student, teacher=teacher, write=False)
    assert all(p.requires_grad for p in student.parameters())


def test_a_teacher_nobody_reads_is_not_run():
    training = prepare(recipe({"use": "spectral", "layer": "body", "rank": 2}), write=False)
    calls: list[int] = []
    training.run.teacher.register_forward_hook(lambda *_: calls.append(1))
    training.fit()
    assert not calls


# The step ------------------------------------------------------------------------------------------------------------


def test_a_weight_of_zero_trains_exactly_as_without_the_plugin():
    plain = train(recipe(), write=False)
    off = train(recipe({**FEATURES, "weight": 0.0}, {"use": "projector"}), write=False)
    on = train(recipe({**FEATURES, "weight": 1.0}, {"use": "projector"}), write=False)
    assert same_state(plain.student.state_dict(), off.student.state_dict())
    assert not same_state(plain.student.state_dict(), on.student.state_dict())


def test_a_weight_that_is_switched_off_skips_the_term():
    called: list[int] = []

    @plugin
    class Counting(Plugin):
        """Notes the steps in which it is asked for its loss."""

        weight: Weight = 1.0

        @hookimpl
        def losses(self, step):
            called.append(step.iteration)
            return {"": step.student.output.square().mean()}

    training = prepare(recipe(), plugins=[Counting(weight={"until": 0.5})], write=False)
    called.clear()
    training.fit()
    assert called == [0, 1, 2]


def test_the_step_holds_no_tensor_after_the_epoch():
    training = prepare(recipe(FEATURES, {"use": "projector"}), write=False)
    held: list[Any] = []
    training.run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda e: held.append((e.state.step.student.features, e.state.step.losses, e.state.step.total)),
    )
    training.fit()
    assert held == [({}, {}, None)] * 2


def test_what_a_plugin_gives_as_the_teachers_side_stays_the_plugins():
    given = Side(torch.ones(4, 3), {"body": torch.ones(4, 5)})

    @plugin
    class Keeping(Plugin):
        """Gives the same features in every step."""

        requires = ("teacher",)

        @hookimpl
        def teacher_forward(self, step):
            step.teacher = given
            return True

    training = prepare(recipe(), plugins=[Keeping()], write=False)
    training.fit()
    assert given.output is not None
    assert list(given.features) == ["body"]


class Zeroing(torch.optim.SGD):
    """An optimizer with a way of its own to clear gradients: it counts, and keeps them as zeros."""

    cleared = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Count, and put zeros there."""
        Zeroing.cleared += 1
        super().zero_grad(set_to_none=False)


def test_no_gradient_is_left_over_after_a_step_and_an_optimizers_own_clearing_is_called():
    plain = prepare(recipe(), write=False)
    plain.fit()
    assert [p.grad for p in plain.run.student.parameters() if p.grad is not None] == []
    own = prepare(recipe(optimizer__name=f"{__name__}:Zeroing", optimizer__lr=0.1), write=False)
    own.fit()
    assert Zeroing.cleared == own.run.trainer.state.iteration > 0
    assert all(p.grad is not None and not p.grad.any() for p in own.run.student.parameters())


def test_two_runs_in_one_process_do_not_share_taps():
    first = prepare(recipe(FEATURES, {"use": "projector"}), write=False)
    second = prepare(recipe(FEATURES, {"use": "projector"}), write=False)
    one, two = first.fit(), second.fit()
    assert same_state(one.student.state_dict(), two.student.state_dict())
    assert not any(m._forward_hooks for m in one.student.modules())


def test_the_teachers_features_can_come_from_a_plugin_around_the_engines_own():
    seen: list[Any] = []

    @plugin
    class Around(Plugin):
        """Wraps the engine's forward."""

        @hookimpl(wrapper=True)
        def teacher_forward(self, step):
            result = yield
            seen.append((result, step.teacher is not None))
            return result

    train(recipe(FEATURES, {"use": "projector"}), write=False)
    training = prepare(
        recipe(),
        plugins=[Around(), *(a.plugin for a in prepare(recipe(FEATURES, {"use": "projector"}), write=False).actives)],
        write=False,
    )
    seen.clear()
    training.fit()
    assert seen == [(True, True)] * 6


def test_an_error_in_a_teacher_forward_names_who_has_a_say_in_it():
    @plugin
    class Broken(Plugin):
        """Fails in place of the teacher."""

        @hookimpl
        def teacher_forward(self, step):
            if step.iteration == 1:
                raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError) as caught:
        train(recipe(), plugins=[Broken()], write=False)
    assert caught.value.__notes__ == ["in hook 'teacher_forward' of 'broken', epoch 1, step 2"]


def test_a_plugin_can_stand_in_for_the_teacher():
    @plugin
    class Standing(Plugin):
        """Gives features of its own; the teacher is never called."""

        requires = ("teacher",)

        @hookimpl
        def add_taps(self, assembly):
            return [Tap("student", "body"), Tap("teacher", "body")]

        @hookimpl
        def add_links(self, assembly):
            return [LinkSpec("body", "body", "body")]

        @hookimpl
        def teacher_forward(self, step):
            from stillhouse.contract.step import Side

            step.teacher = Side(None, {"body": torch.zeros(len(step.ids), 6, 6, 6)})
            return True

    training = prepare(recipe(), plugins=[Standing()], write=False)
    calls: list[int] = []
    training.run.teacher.register_forward_hook(lambda *_: calls.append(1))
    training.fit()
    assert not calls


def test_plugins_fold_away_what_training_added_in_order():
    @plugin
    class Folding(Plugin):
        """Puts a scale behind the student."""

        by: float = 2.0

        @hookimpl
        def export(self, assembly, student):
            return nn.Sequential(student, nn.Identity()) if self.by else None

    result = train(recipe(), plugins=[Folding(name="one"), Folding(name="two")], write=False)
    assert isinstance(result.student[0][0], TinyNet)
    assert not result.student.training
    with pytest.raises(StillhouseError, match="plugin 'folding': export gave NoneType"):
        train(recipe(), plugins=[Folding(by=0.0)], write=False)


def test_late_taps_on_a_compiled_student_are_refused():
    student = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    student.compile()
    with pytest.raises(StillhouseError, match="compiled already"):
        prepare(recipe({"use": "spectral", "layer": "1", "rank": 1}), student=student, write=False)
