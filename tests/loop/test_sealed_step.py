"""A step is sealed: a hook writes what is its own, and any other write says which hook owns the thing."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import pytest
import torch
from support import recipe

from stillhouse import Link, Plugin, Step, StillhouseError, StillhouseWarning, Tap, Weight, hookimpl, plugin, train
from stillhouse.contract.step import Side
from stillhouse_features import Features, LinkOptions

SHORT: Any = {"run__epochs": 1, "run__validate_every": 9}
SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()
    yield
    SEEN.clear()


def does(hook: str, what: Any) -> Plugin:
    """A plugin that does ``what(step)`` in ``hook``, in training."""

    def method(self: Any, step: Step) -> Any:
        if step.student.output is None or step.student.output.requires_grad:  # not in the walk
            what(step)
        return {"transform": None, "losses": {"": 0 * step.student.output.sum()}}.get(hook)

    method.__name__ = hook
    own: Any = {"__annotations__": {"weight": "float"}, "weight": 1.0} if hook == "losses" else {}
    return plugin(type("Does", (Plugin,), {"requires": ("teacher",), hook: hookimpl(method), **own}))()


def runs(*plugins: Plugin, **changes: Any) -> Any:
    features = Features(links=[LinkOptions(student="body", teacher="body")])
    same_width = {"student": {"model": "support:TinyNet", "args": {"width": 6}}}
    return train(recipe(**{**SHORT, **same_width, **changes}), plugins=[features, *plugins], write=False)


def first(step: Step) -> Link:
    return next(iter(step.links.values()))


def sets(name: str, value: Any = None) -> Any:
    return lambda step: setattr(step, name, value)


WRITES = {
    "total": (sets("total"), r"step\.total: .*combine_gradients"),
    "student": (sets("student"), r"step\.student: .*step\.forward"),
    "teacher": (sets("teacher"), r"step\.teacher: .*teacher_forward replaces it"),
    "inputs": (sets("inputs"), r"step\.inputs: .*prepare_batch .*changes = \(\"inputs\",\)"),
    "targets": (sets("targets"), r"step\.targets: .*prepare_batch"),
    "ids": (sets("ids"), r"step\.ids: .*prepare_batch"),
    "batch": (sets("batch"), r"step\.batch: .*prepare_batch"),
    "losses": (sets("losses", {}), r"step\.losses: .*the hook losses returns terms"),
    "memo": (sets("memo", {}), r"step\.memo: .*write into it"),
    "iteration": (sets("iteration", 0), r"step\.iteration: .*step\.memo is a plugin's own scratch"),
    "a new name": (sets("mine", 0), r"step\.mine: .*step\.memo is a plugin's own scratch"),
    "del": (lambda step: delattr(step, "total"), r"step\.total: .*combine_gradients"),
    "a term": (lambda step: step.losses.update(mine=1), r"step\.losses: .*the hook losses returns terms"),
    "a weight": (lambda step: step.weights.__setitem__("task", 0.0), r"step\.weights: .*option `weight`"),
    "a link": (lambda step: step.links.pop("features/body"), r"step\.links: .*add_links"),
    "a side": (lambda step: setattr(step.student, "output", None), r"side\.output: .*teacher_forward"),
    "a feature": (lambda step: step.teacher.features.clear(), r"side\.features: .*teacher_forward"),
}
LINK = (lambda step: setattr(first(step), "student", None), r"link\.student: .*transform replaces")


HOOKS = ["forward_completed", "transform", "losses", "backward_completed", "optimizer_stepped"]


@pytest.mark.parametrize(
    ("hook", "write"), [*(("losses_computed", write) for write in WRITES), *((hook, "total") for hook in HOOKS)]
)
def test_a_write_names_the_hook_that_owns_the_thing(hook: str, write: str):
    what, message = WRITES[write]
    with pytest.raises(StillhouseError, match=message) as error:
        runs(does(hook, what))
    said = [str(error.value), *getattr(error.value, "__notes__", [])]
    assert any(hook in text and "'does'" in text for text in said)


@pytest.mark.parametrize("hook", ["forward_completed", "losses", "losses_computed", "backward_completed"])
def test_a_link_is_written_in_transform_alone(hook: str):
    with pytest.raises(StillhouseError, match=LINK[1]):
        runs(does(hook, LINK[0]))
    runs(does("transform", lambda step: setattr(first(step), "student", first(step).student * 2)))


def test_what_is_read_is_as_it_was_and_a_copy_is_the_readers_own():
    def looks(step: Step) -> None:
        assert isinstance(step.losses, dict)
        for copied in (dict(step.losses), step.losses | {}, copy.copy(step.losses), step.losses.copy()):
            copied["mine"] = torch.zeros(())
        assert pickle.loads(pickle.dumps(step.weights)) == dict(step.weights)
        assert isinstance(step, Step)
        assert isinstance(step.student, Side)
        SEEN.append(set(step.losses))

    runs(does("losses_computed", looks))
    assert len(SEEN) == 3
    assert all(names == {"task", "features"} for names in SEEN)


def test_a_step_made_by_hand_is_open():
    step = Step(None, torch.arange(2), None, None, 0, 0, composition=None)  # type: ignore[arg-type]  # of a plugin's own test
    step.losses = {"mine": torch.ones(())}
    step.student = Side(torch.ones(2))
    assert step.parts == (step,)


def test_a_run_cannot_be_written():
    @plugin
    class Writes(Plugin):
        """Writes to the run."""

        what: str

        @hookimpl
        def epoch_started(self, run):
            if self.what == "metrics":
                run.metrics["val"] = {}
            else:
                setattr(run, self.what, None)

    for what, owner in (("metrics", "the hook metrics"), ("optimizer", "build returns"), ("mine", "step.memo")):
        with pytest.raises(StillhouseError, match=rf"run\.{what}: cannot be written here .*{owner}"):
            runs(Writes(what=what))


@plugin
class Remembers(Plugin):
    """Keeps what one hook knows for another, by part."""

    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", "body")]

    @hookimpl
    def losses(self, step):
        step.memo["mean"] = step.student.features["body"].detach().mean()
        return {"": step.student.output.square().mean()}

    @hookimpl
    def optimizer_stepped(self, step):
        SEEN.append((step, [(part.ids.tolist(), set(part.memo)) for part in step.parts], dict(step.losses)))
        assert step.total is not None
        assert step.weights == {"task": 1.0, "remembers": 1.0}
        assert all(part.student.output is None for part in step.parts[:-1])


@pytest.mark.parametrize("parts", [1, 3])
def test_memo_belongs_to_a_part_and_the_last_step_has_all_parts(parts: int):
    train(recipe(teacher=None, run__accumulate=parts, **SHORT), plugins=[Remembers()], write=False)
    assert len(SEEN) == 3
    for step, seen, losses in SEEN:
        assert len(seen) == parts
        assert sum(len(ids) for ids, _ in seen) == 8
        assert all(memo == {"mean"} for _, memo in seen)
        assert set(losses) == {"task", "remembers"}
        assert step.memo == {}  # let go of after the step
        assert step.parts == (step,)


@plugin
class Gives(Plugin):
    """Gives what ``losses`` must not give."""

    weight: Weight = 1.0
    gives: ClassVar[Any] = None

    @hookimpl
    def losses(self, step):
        if step.student.output.requires_grad or not SEEN:  # the walk's step, or all steps
            return (
                {"": 0 * step.student.output.sum()} if SEEN == ["later"] and step.iteration == 0 else self.gives(step)
            )
        return {"": step.student.output.sum()}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (lambda step: {"a/b": step.student.output.mean()}, "'a/b' must be text without a slash"),
        (lambda step: {"": step.student.output}, "'' is a tensor of shape"),
        (lambda step: {"": 1.0}, "'' is float"),
        (lambda step: step.student.output.mean(), "losses gave Tensor"),
        (lambda step: None, "losses gave NoneType"),
    ],
)
def test_terms_that_are_none_are_refused_by_plugin_in_any_step(gives: Any, message: str, later: bool, monkeypatch):
    monkeypatch.setattr(Gives, "gives", staticmethod(gives))
    SEEN[:] = ["later"] if later else []
    with pytest.raises(StillhouseError, match=message) as error:
        train(recipe(teacher=None, **SHORT), plugins=[Gives()], write=False)
    assert "plugin 'gives'" in str(error.value) + "".join(getattr(error.value, "__notes__", []))


def test_losses_that_are_always_empty_are_told_by_plugin_and_hook(monkeypatch):
    monkeypatch.setattr(Gives, "gives", staticmethod(lambda step: {}))
    with pytest.warns(StillhouseWarning, match="plugin 'gives', hook 'losses': gave no loss term in 3 steps"):
        train(recipe(teacher=None, **SHORT), plugins=[Gives()], write=False)


def test_an_answer_for_the_teacher_has_no_gradient_and_the_teachers_precision():
    @plugin
    class Answers(Plugin):
        """Answers with a model of its own."""

        requires = ("teacher",)

        @hookimpl(wrapper=True)
        def teacher_forward(self, step):
            SEEN.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
            return (yield)

    runs(Answers(), run__precision="bfloat16")
    assert set(SEEN) == {(False, True)}


def test_an_answer_for_the_teacher_that_is_none_is_refused():
    @plugin
    class Answers(Plugin):
        """Says that it has answered."""

        requires = ("teacher",)

        @hookimpl
        def teacher_forward(self, step):
            step.teacher = "a tensor"
            return True

    with pytest.raises(StillhouseError, match="must be a Side, got str"):
        train(recipe(**SHORT), plugins=[Answers()], write=False)


def test_gradient_and_autocast_are_as_the_table_says():
    def mode(hook: str) -> Any:
        return lambda step: SEEN.append((hook, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))

    hooks = ["prepare_batch", "transform", "losses", "backward_completed", "optimizer_stepped"]
    with torch.autocast("cpu", dtype=torch.bfloat16):  # somebody's own, around a run
        for hook in hooks[1:3]:
            runs(does(hook, mode(hook)))
    assert set(SEEN) == {("transform", True, False), ("losses", True, False)}
    SEEN.clear()
    for hook in hooks[3:]:
        runs(does(hook, mode(hook)))
    assert set(SEEN) == {("backward_completed", False, False), ("optimizer_stepped", False, False)}
