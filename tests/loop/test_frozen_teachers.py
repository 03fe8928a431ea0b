"""The teacher stays out of the training, and plugins can stand in for it or go around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import FEATURES, TinyNet, recipe, same_state

from stillhouse import LinkSpec, Plugin, StillhouseError, Tap, hookimpl, plugin, prepare, train
from stillhouse.contract.step import Side

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
