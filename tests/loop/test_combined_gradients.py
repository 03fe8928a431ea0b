"""A plugin that owns the backward pass: what it is given, what is made of its answer, and what is refused."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from support import FIVE, interrupted, recipe, same_state, tables
from support.pcgrad import OPPOSED, PCGRAD, TERMS, PcGrad, by_hand, check_weights, conflicting
from support.processes import PlainNet
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stillhouse import Plugin, Recipe, StillhouseError, Weight, hookimpl, plugin, prepare, train
from stillhouse.contract.plugin import renamed


@plugin
class Total(Plugin):
    """Adds the terms' gradients up, as the ordinary backward pass does."""

    seen: ClassVar[list[dict[str, Any]]] = []

    @hookimpl
    def combine_gradients(self, step, gradients):
        assert not torch.is_grad_enabled()
        self.seen.append(
            {"terms": dict(gradients), "names": [n for n, _ in step.parameters], "losses": set(step.losses)}
        )
        return [torch.stack(own).sum(0) for own in zip(*gradients.values(), strict=True)]


@pytest.fixture(autouse=True)
def _forget():
    Total.seen.clear()
    yield
    Total.seen.clear()


def trained(settings: Any, *more: Plugin) -> Any:
    """A run of a recipe's settings, with further plugins."""
    settings = Recipe.from_dict(settings)
    if not more:
        return train(settings, write=False)
    from stillhouse.registry.plugins import plugins_in_use

    listed = [active.plugin for active in plugins_in_use(settings.plugins, settings.base)]
    return train(settings, plugins=[*listed, *more], write=False)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_pcgrad_equals_the_same_by_hand_whole_and_in_parts(parts: int):
    expected, _ = by_hand(conflicting())
    check_weights(trained(conflicting(PCGRAD, run={"accumulate": parts})).student, expected)
    without = trained(conflicting()).student.state_dict()
    assert max(float((without[n] - expected[n]).abs().max()) for n in without) > 0.005  # they do conflict


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_half_precision_it_equals_terms_taken_one_by_one_in_that_precision(precision: str):
    settings = conflicting(PCGRAD, run={"precision": precision})
    expected, _ = by_hand(settings)
    check_weights(trained(settings).student, expected)


def test_the_sum_of_the_terms_is_the_ordinary_run():
    sgd = {"name": "sgd", "lr": 0.1, "clip_norm": 0.05}  # Adam would blow up rounding, of a bias before BatchNorm say
    changes = {"optimizer": sgd, "student__args": {"dropout": 0.0}}
    ordinary = train(recipe(*FIVE.values(), **changes), write=False)
    summed = trained(tables(plugins=list(FIVE.values()), **changes), Total())
    check_weights(summed.student, ordinary.student.state_dict(), rtol=1e-5)
    assert len(Total.seen) == 1 + 6  # the rehearsed step, and six of training


def test_a_single_term_is_the_ordinary_run_bit_for_bit():
    ordinary = train(recipe(run__accumulate=2), write=False)
    combined = trained(tables(run__accumulate=2), Total())
    assert len(Total.seen) == 1 + 6
    assert same_state(ordinary.student.state_dict(), combined.student.state_dict())


def test_gradients_are_aligned_with_the_parameters_of_student_and_plugins():
    trained(conflicting(), Total())
    (first, *_) = Total.seen
    assert set(first["terms"]) == first["losses"] == set(TERMS)
    assert first["names"][0] == "student.stem.weight"
    assert first["names"][-2:] == ["plugins.plugin_opposed.weight", "plugins.plugin_opposed.bias"]
    # The task does not reach the plugin's module: zeros.
    assert all(not g.any() for g in first["terms"]["task"][-2:])
    assert all(g.any() for g in first["terms"]["opposed/shifted"])


def test_a_term_comes_weighted_and_a_term_that_is_off_is_absent():
    trained(conflicting(), Total())
    (_, whole, *_) = [entry["terms"] for entry in Total.seen]
    Total.seen.clear()
    settings = conflicting()
    settings["plugins"] = [{**OPPOSED, "weight": {"peak": 0.25, "until": 0.5}}]
    trained(settings, Total())
    _rehearsed, *seen = Total.seen
    assert [set(entry["terms"]) for entry in seen] == [set(TERMS)] * 3 + [{"task"}] * 3
    for term, factor in (("task", 1.0), ("opposed/shifted", 0.25)):
        for own, full in zip(seen[0]["terms"][term], whole[term], strict=True):
            torch.testing.assert_close(own, factor * full)


@pytest.mark.parametrize("run", [{"accumulate": 2}, {"precision": "float16"}], ids=["parts", "float16"])
def test_a_run_resumes_bit_for_bit(tmp_path, run: dict[str, Any]):
    settings = conflicting(PCGRAD, run={"epochs": 3, **run}, optimizer={"args": {"momentum": 0.9}})
    settings["plugins"][0] = {**OPPOSED, "weight": {"until": 0.7}}
    settings = Recipe.from_dict(settings)
    whole = train(settings, out=tmp_path / "whole")
    interrupted(prepare(settings, out=tmp_path / "cut"), at=5)
    resumed = train(settings, out=tmp_path / "cut", resume=True)
    assert resumed.summary["resumed_at_step"] == 3
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())


# float16


@plugin
class Overflows(Plugin):
    """Has a term whose gradient is infinite in the third step; combined, it hides it."""

    weight: Weight = 1.0
    given: ClassVar[list[float]] = []

    @hookimpl
    def losses(self, step):
        large = step.student.output.float().sum() * (1e36 if step.iteration == 2 else 0.0)
        return {"": large - large.detach()}

    @hookimpl
    def combine_gradients(self, step, gradients):
        self.given.append(float(max(g.abs().max() for own in gradients.values() for g in own)))
        return gradients["task"]


def test_a_step_in_which_a_term_overflows_is_left_out_whatever_the_plugin_makes_of_it():
    Overflows.given.clear()
    training = prepare(
        Recipe.from_dict(conflicting(run={"precision": "float16"}) | {"plugins": []}),
        plugins=[Overflows()],
        write=False,
    )
    run, weights = training.run, []
    run.optimizer.register_step_post_hook(lambda *_: weights.append(run.trainer.state.iteration))
    Overflows.given.clear()  # the rehearsed step's
    training.fit()
    assert weights == [1, 2, 4, 5, 6]
    assert [value == 0.0 for value in Overflows.given] == [False, False, True, False, False, False]
    assert all(value < 100 for value in Overflows.given)  # unscaled


# models that recompute, compiled ones


class Recomputing(PlainNet):
    """Recomputes its blocks in the backward pass."""

    def __init__(self, num_classes: int, in_channels: int = 1, width: int = 4, reentrant: bool = True) -> None:
        super().__init__(num_classes, in_channels, width)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 6, 6) -> (B, num_classes)."""
        x = checkpoint(self.body, torch.tanh(self.stem(x)), use_reentrant=self.reentrant)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_student_that_recomputes_its_blocks_is_fine(reentrant: bool):
    changed = conflicting(PCGRAD)
    changed["student"] = {"model": "loop.test_combined_gradients:Recomputing", "args": {"reentrant": reentrant}}
    check_weights(trained(changed).student, by_hand(conflicting())[0])


def test_a_compiled_student_is_fine():
    settings = conflicting(PCGRAD, speed={"compile": "student", "compile_args": {"backend": "aot_eager"}})
    try:
        check_weights(trained(settings).student, by_hand(conflicting())[0])
        assert not torch._functorch.config.donated_buffer
    finally:
        torch._dynamo.reset()


# what the plugin gives


@plugin
class Answers(Plugin):
    """Gives what it is told to."""

    answer: ClassVar[Any] = None

    @hookimpl
    def combine_gradients(self, step, gradients):
        return type(self).answer([g.clone() for g in gradients["task"]])


def with_answer(monkeypatch, answer: Any) -> Any:
    monkeypatch.setattr(Answers, "answer", staticmethod(answer))
    return train(recipe(optimizer={"name": "sgd", "lr": 0.1}), plugins=[Answers()], write=False)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: None, "gave NoneType"),
        (lambda g: {"student": g}, "gave dict"),
        (lambda g: torch.stack([x.sum() for x in g]), "gave Tensor"),
        (lambda g: g[1:], "gave 7 gradients, and there are 8 parameters"),
        (lambda g: [*g[:-1], 0.0], "gave for student.head.bias float"),
        (lambda g: [*g[:-1], g[-1][:1]], r"gave for student.head.bias a tensor of shape \(1,\) and not \(3,\)"),
        (lambda g: [*g[:-1], g[-1].to("meta")], "gave for student.head.bias a tensor on meta and not cpu"),
    ],
)
def test_what_is_no_gradient_by_parameter_is_refused(monkeypatch, answer: Any, says: str):
    with pytest.raises(
        StillhouseError, match=f"plugin 'answers': combine_gradients: {says} .a list with one tensor, or None, for each"
    ):
        with_answer(monkeypatch, answer)


def test_an_error_of_the_hook_says_where_it_came_from(monkeypatch):
    with pytest.raises(ZeroDivisionError) as caught:
        with_answer(monkeypatch, lambda g: 1 / 0)
    assert caught.value.__notes__ == [
        "in plugin 'answers', hook 'combine_gradients', epoch 1, step 1",
        "before training, in the rehearsed step; links: {}",
    ]


def test_none_leaves_a_parameter_alone_and_one_tensor_may_be_given_twice(monkeypatch):
    before = prepare(recipe(), write=False)
    start = {name: p.detach().clone() for name, p in before.run.student.named_parameters()}
    before.close()
    ones = torch.ones(4)

    def answer(gradients: list[Tensor]) -> list[Tensor | None]:
        return [ones if g.shape == (4,) else None for g in gradients]

    result = with_answer(monkeypatch, answer)
    for name, p in result.student.named_parameters():
        moved = start[name] - 0.6 if p.shape == (4,) else start[name]
        torch.testing.assert_close(p, moved)
    assert torch.equal(ones, torch.ones(4))


def test_two_plugins_that_combine_gradients_are_refused_by_name():
    two = [PcGrad(), renamed(PcGrad(), "again"), Total()]
    with pytest.raises(
        StillhouseError, match="'pc_grad', 'again', 'total' all implement combine_gradients, and one plugin at most may"
    ):
        prepare(recipe(), plugins=two, write=False)


class Freeing(torch.autograd.Function):
    """Lets go of what its backward pass needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """As it is."""
        ctx.kept = x
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Once."""
        kept = ctx.kept
        del ctx.kept
        return gradient * torch.ones_like(kept)


class FreeingNet(PlainNet):
    """Cannot go backward twice."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 6, 6) -> (B, num_classes)."""
        return Freeing.apply(super().forward(x))


def test_a_function_that_can_go_backward_once_is_told_from_the_methods_faults():
    settings = conflicting(PCGRAD)
    settings["student"]["model"] = "loop.test_combined_gradients:FreeingNet"
    with pytest.raises(AttributeError) as caught:
        trained(settings)
    assert caught.value.__notes__ == [
        "in the backward pass of the term 'opposed/shifted' by itself, which 'pcgrad' asks for by combine_gradients",
        "before training, in the rehearsed step; links: {}",
    ]


def test_without_such_a_plugin_the_total_goes_backward_once(monkeypatch):
    passes, own = [], Tensor.backward
    monkeypatch.setattr(Tensor, "backward", lambda *a, **k: (passes.append(1), own(*a, **k))[1])
    trained(conflicting())
    assert len(passes) == 1 + 6  # the rehearsed step, and six of training
