"""Authors' mistakes: each is told before anything is trained, or in the first steps, by plugin and hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from support import recipe
from support.wrong_plugins import Body, out, wrong
from torch import nn

from stillhouse import LinkSpec, Plugin, StillhouseError, Tap, Weight, hookimpl, plugin, prepare, train
from stillhouse.loop.phases import Phase


@plugin
class Pair(Plugin):
    """Links body with body as they are, and takes a distance."""

    provides = ("links",)
    requires = ("teacher",)
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", "body"), Tap("teacher", "body")]

    @hookimpl
    def add_links(self, assembly):
        return [LinkSpec("body", "body", "body")]

    @hookimpl
    def losses(self, step):
        (link,) = step.links_of(self)
        return {"": (link.student.mean(1) - link.teacher.mean(1)).square().mean()}


def in_place(side: str) -> Body:
    def transform(_self: Any, step: Any) -> None:
        for link in step.match("*"):
            getattr(link, side).mul_(2.0)

    return transform


def setting(side: str, change: Callable[[torch.Tensor], Any]) -> Body:
    def transform(_self: Any, step: Any) -> None:
        for link in step.match("*"):
            setattr(link, side, change(getattr(link, side)))

    return transform


class Lazy(nn.Module):
    """Makes its parameter when it is first called in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and not hasattr(self, "w"):
            self.w = nn.Parameter(torch.ones(()))
        return x * getattr(self, "w", 1.0)


def backward(_self: Any, step: Any) -> dict[str, torch.Tensor]:
    if torch.is_grad_enabled():
        out(step).mean().backward(retain_graph=True)
    return {"": out(step).mean()}


def sets_student(_self: Any, assembly: Any) -> None:
    assembly.student = nn.Identity()


TERMS = {
    "none": (lambda s, st: None, "losses gave NoneType (a dict"),
    "a tensor": (lambda s, st: out(st).mean(), "losses gave Tensor (a dict"),
    "a vector": (lambda s, st: {"": out(st).mean(1)}, "losses: the loss term '' is a tensor of shape (2,)"),
    "one row": (lambda s, st: {"": out(st).mean().reshape(1)}, "losses: the loss term '' is a tensor of shape (1,)"),
    "a number": (lambda s, st: {"": 0.5}, "losses: the loss term '' is float"),
    "whole": (lambda s, st: {"": out(st).argmax()}, "losses: the loss term '' is torch.int64"),
    "slash": (lambda s, st: {"a/b": out(st).mean()}, "the name of the loss term 'a/b' must be text without a slash"),
    "no text": (lambda s, st: {1: out(st).mean()}, "the name of the loss term 1 must be text without a slash"),
    "elsewhere": (lambda s, st: {"": torch.zeros((), device="meta")}, "losses: the loss term '' is on meta"),
    "detached": (lambda s, st: {"": out(st).detach().mean()}, "losses: the loss term '' has no gradient (leave a term out"),
    "no_grad": (torch.no_grad()(lambda s, st: {"": out(st).mean()}), "losses: the loss term '' has no gradient"),
    "backward": (backward, "losses leaves gradients in .grad"),
    "no module": (lambda s, st: {"": st.module(s)(out(st))}, "losses asks for the module of 'wrong', which built none"),
    "no teacher": (lambda s, st: {"": st.teacher.output.mean()}, "losses reads step.teacher, and no teacher has been called"),
    "no tap": (lambda s, st: {"": st.student.features["stem"].mean()}, "losses reads the layer 'stem', which no tap reads"),
    "untapped": (lambda s, st: {"": st.tapped("student", "stem")[0][1].mean()}, "losses: reads the student's layer 'stem', which no tap reads"),
    "teachers tap": (lambda s, st: {"": st.tapped("teacher", "stem")[0][1].mean()}, "losses: step.tapped reads the teacher's layer 'stem', and no teacher has been called"),
    "no link": (lambda s, st: {"": sum(x.student.mean() for x in st.match("feature/*"))}, "losses: step.match('feature/*') matches no link (no plugin makes links)"),
    "inputs": (lambda s, st: (st.inputs.mul_(0), {"": out(st).mean()})[1], "losses changes step.inputs in place (losses only reads)"),
    "targets": (lambda s, st: (st.targets.zero_(), {"": out(st).mean()})[1], "losses changes step.targets in place"),
}  # fmt: skip


@pytest.mark.parametrize("what", TERMS)
def test_wrong_losses_are_told_before_training(what: str):
    body, says = TERMS[what]
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(), plugins=[wrong(losses=body)], write=False)
    assert f"plugin 'wrong': {says}" in str(caught.value)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_term_is_rehearsed_at_weight_0_too(weight: float):
    instance: Any = wrong(losses=TERMS["detached"][0])
    with pytest.raises(StillhouseError, match="has no gradient"):
        prepare(recipe(), plugins=[attrs.evolve(instance, weight=weight)], write=False)


def test_the_wrong_losses_of_all_plugins_are_told_at_once():
    one: Any = wrong(losses=TERMS["detached"][0])
    other: Any = wrong(losses=TERMS["a number"][0])
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(), plugins=[one, attrs.evolve(other, name="other")], write=False)
    assert [fault.where for fault in caught.value.faults] == ["plugin 'wrong'", "plugin 'other'"]


TRANSFORMS = {
    "teacher in place": (in_place("teacher"), "transform changes link 'pair/body' (teacher) in place (set link.student"),
    "student in place": (in_place("student"), "transform changes link 'pair/body' (student) in place"),
    "fewer rows": (setting("student", lambda x: x[:1]), "transform makes link 'pair/body' (student) (1, 4, 6, 6), of 2 samples"),
    "no tensor": (setting("teacher", lambda x: x.numpy()), "transform sets link 'pair/body' (teacher) to ndarray"),
    "none": (setting("teacher", lambda x: None), "transform sets link 'pair/body' (teacher) to NoneType"),
    "typo": (lambda s, st: list(st.match("pear/*")), "transform: step.match('pear/*') matches no link (known: 'pair/body')"),
}  # fmt: skip


@pytest.mark.parametrize("what", TRANSFORMS)
def test_wrong_transforms_are_told_before_training(what: str):
    body, says = TRANSFORMS[what]
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(), plugins=[Pair(), wrong(transform=body)], write=False)
    assert f"plugin 'wrong': {says}" in str(caught.value)


LAZY = {"transform": lambda s, st: setting("student", st.module(s))(s, st)}
ASSEMBLING = {
    "taps none": ({"add_taps": lambda s, a: None}, "add_taps gave None"),
    "taps tuples": ({"add_taps": lambda s, a: [("student", "body")]}, "add_taps gave ('student', 'body')"),
    "build dict": ({"build": lambda s, a: {}}, "build gave dict"),
    "build parameter": ({"build": lambda s, a: nn.Parameter(torch.zeros(1))}, "build gave Parameter"),
    "build lazy": ({"build": lambda s, a: nn.LazyLinear(3)}, "build gave a module whose 'weight' has no shape yet"),
    "links text": ({"add_links": lambda s, a: ["body"]}, "add_links gave 'body'"),
    "links none": ({"add_links": lambda s, a: None}, "add_links gave None"),
    "build sets": ({"build": sets_student}, "build sets assembly.student (adapt returns"),
    "taps set": ({"add_taps": lambda s, a: setattr(a, "epochs", 50) or []}, "add_taps sets assembly.epochs"),
    "adapt text": ({"adapt": lambda s, a, m: "student"}, "adapt gave str"),
    "options": ({"optimizer_options": lambda s, a: None}, "optimizer_options gave NoneType"),
    "metrics list": ({"metrics": lambda s, a: []}, "metrics gave list"),
    "metrics number": ({"metrics": lambda s, a: {"x": 3}}, "metrics gave int as 'x'"),
    "unreached": ({"build": lambda s, a: nn.Linear(2, 2)}, "no loss term reaches 'weight', 'bias' of its module, which build gave"),
    "late": ({"build": lambda s, a: Lazy(), **LAZY}, "the parameter 'w' is made in a step"),
}  # fmt: skip


@pytest.mark.parametrize("what", ASSEMBLING)
def test_wrong_assembling_is_told_before_training(what: str):
    bodies, says = ASSEMBLING[what]
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(), plugins=[Pair(), wrong(**bodies)], write=False)
    assert f"plugin 'wrong': {says}" in str(caught.value)


LOGGED = {
    "text": (lambda s, st: {"x": "hi"}, "scalars gave str as 'x'"),
    "a vector": (lambda s, st: {"x": out(st)}, "scalars gave a tensor of shape (8, 3) as 'x'"),
    "none": (lambda s, st: None, "scalars gave NoneType"),
}


@pytest.mark.parametrize("what", LOGGED)
def test_wrong_scalars_are_told_by_name(what: str):
    body, says = LOGGED[what]
    with pytest.raises(StillhouseError) as caught:
        train(recipe(run__log_every=1), plugins=[wrong(scalars=body)], write=False)
    assert f"plugin 'wrong': {says}" in str(caught.value)


def test_scalars_that_raise_have_a_note_and_plain_numbers_will_do():
    with pytest.raises(ZeroDivisionError) as caught:
        train(recipe(run__log_every=1), plugins=[wrong(scalars=lambda s, st: 1 / 0)], write=False)
    assert "in plugin 'wrong', hook 'scalars'" in caught.value.__notes__
    train(recipe(run__log_every=1), plugins=[wrong(scalars=lambda s, st: {"": 0.5})], write=False)


def test_a_batch_that_is_replaced_is_told():
    def replace(_self: Any, run: Any) -> None:
        state = run.trainer.state
        state.batch = state.batch._replace(input=state.batch.input * 0)

    with pytest.raises(StillhouseError, match=r"plugin 'wrong': get_batch_completed replaces .*prepare_batch"):
        train(recipe(), plugins=[wrong(get_batch_completed=replace)], write=False)


def keep(plugin: Any, _arguments: Any) -> dict[str, torch.Tensor]:
    plugin.seen = 1
    return {}


@pytest.mark.parametrize(
    ("hook", "place"), [("build", "before training"), ("losses", "epoch 1, step 1"), ("get_batch_completed", "epoch 1")]
)
def test_an_attribute_that_is_written_is_told_with_where_it_belongs(hook: str, place: str):
    with pytest.raises(StillhouseError, match="class Wrong: the attribute 'seen' cannot be written") as caught:
        train(recipe(), plugins=[wrong(**{hook: keep})], write=False)
    assert "in the module that build returns" in str(caught.value)
    assert any(f"hook {hook!r}, {place}" in note for note in caught.value.__notes__)


def test_a_tapped_layer_that_is_replaced_in_training_is_told():
    def replace(_self: Any, run: Any, _step: Any) -> None:
        run.student.body = nn.Conv2d(4, 4, 3, padding=1)

    says = "the layer 'body', which link 'pair/body' reads, is another module .*adapt does that"
    with pytest.raises(StillhouseError, match=says):
        train(recipe(), plugins=[Pair(), wrong(optimizer_stepped=replace)], write=False)


def late(step: Any, at: int) -> dict[str, torch.Tensor]:
    """A term that loses its gradient from step ``at`` on; step 0 is rehearsed as well."""
    return {"": out(step).mean() if step.iteration < at else out(step).detach().mean()}


def test_the_checks_stay_on_for_the_first_two_steps_and_no_longer():
    with pytest.raises(StillhouseError, match="plugin 'wrong': losses: the loss term '' has no gradient") as caught:
        train(recipe(), plugins=[wrong(losses=lambda s, st: late(st, 1))], write=False)
    assert "in plugin 'wrong', hook 'losses', epoch 1, step 2" in caught.value.__notes__
    unwatched = recipe(watch={"enabled": False})
    training = prepare(unwatched, plugins=[wrong(losses=lambda s, st: late(st, 2))], write=False)
    plain, seen = training.run.composition.hooks, []
    training.run.trainer.add_event_handler(
        Phase.OPTIMIZER_STEPPED, lambda: seen.append(training.run.composition.hooks is plain)
    )
    training.fit()
    assert seen == [False, False, True, True, True, True]


def cross_entropy_by_hand(step: Any) -> torch.Tensor:
    """What ends in an IndexError of torch where targets are no indices."""
    return -out(step).log_softmax(1).gather(1, step.targets[:, None]).mean()


def test_two_batch_transformed_samples_are_walked_over():
    needing = wrong(requires=("targets: classes",), losses=lambda s, st: {"": cross_entropy_by_hand(st)})
    prepare(recipe(), plugins=[needing], write=False)
    mixed = {"name": "support:tiny_data", "batch_size": 8, "normalize": "none", "batch_transforms": [{"use": "MixUp"}]}
    with pytest.raises(StillhouseError, match="plugin 'wrong': requires 'targets: classes', class indices"):
        prepare(recipe(data=mixed), plugins=[needing], write=False)
