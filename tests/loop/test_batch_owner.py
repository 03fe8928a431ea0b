"""prepare_batch owns the batch, sample_weights the task's loss: against loops by hand, in parts, refused where they must be."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Events
from support import recipe
from torch import Tensor

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin, prepare, train
from stillhouse_cache import Cache

PLAIN: Any = {
    "teacher": None,
    "run__epochs": 1,
    "run__validate_every": 9,
    "student__args": {"dropout": 0.0},
    "optimizer": {"name": "sgd", "lr": 0.1},
}
SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()
    yield
    SEEN.clear()


def mixed(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018) with a fixed share and the batch in reverse."""
    soft = F.one_hot(targets, 3).float()
    return 0.7 * inputs + 0.3 * inputs.flip(0), 0.7 * soft + 0.3 * soft.flip(0)


@plugin
class MixUp(Plugin):
    """Mixes each part of a batch with itself in reverse."""

    changes = ("inputs", "targets")

    @hookimpl
    def prepare_batch(self, step):
        SEEN.append(("prepared", torch.is_grad_enabled(), step.student.output))
        step.inputs, step.targets = mixed(step.inputs, step.targets)

    @hookimpl
    def forward_completed(self, step):
        SEEN.append("forward")


def weights_of(ids: Tensor) -> Tensor:
    return (ids % 3).float()


@plugin
class Weighs(Plugin):
    """Weighs samples by their ids."""

    factor: float = 1.0

    @hookimpl
    def sample_weights(self, step):
        assert not torch.is_grad_enabled()
        assert step.sample_losses.shape == (len(step.ids),)
        assert not step.sample_losses.requires_grad
        return self.factor * weights_of(step.ids)


def by_hand(settings: Any, loss_of: Any) -> Any:
    """The student that plain torch trains over the same batches."""
    hand = prepare(settings, write=False)
    student = copy.deepcopy(hand.run.student).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    stream = hand.data.training()
    for _ in range(hand.run.total_steps):
        batch = next(stream)
        optimizer.zero_grad()
        loss_of(student, batch).backward()
        optimizer.step()
    return student


def same(ours: Any, theirs: Any) -> None:
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_a_mixed_batch_trains_as_by_hand():
    settings = recipe(optimizer__schedule="constant", **PLAIN)

    def loss(student: Any, batch: Any) -> Tensor:
        inputs, targets = mixed(batch.input, batch.target)
        return F.cross_entropy(student(inputs), targets)

    same(train(settings, plugins=[MixUp()], write=False).student, by_hand(settings, loss))


def test_all_parts_are_prepared_without_gradient_before_the_first_goes_forward():
    settings = recipe(**{**PLAIN, "run__accumulate": 2})
    train(settings, plugins=[MixUp()], write=False)
    steps = [*[("prepared", False, None)] * 2, *["forward"] * 2] * 3
    assert [("prepared", False, None), *steps] == SEEN  # the rehearsed step comes first, and is announced to nobody


@pytest.mark.parametrize("parts", [1, 2])
def test_weights_multiply_the_losses_over_the_same_count(parts: int):
    settings = recipe(run__accumulate=parts, **PLAIN)
    ours = train(settings, plugins=[Weighs(name="a"), Weighs(name="b", factor=0.5)], write=False).student

    def loss(student: Any, batch: Any) -> Tensor:
        total = torch.zeros(())
        for rows in torch.arange(8).chunk(parts):  # batch statistics are those of a part
            each = F.cross_entropy(student(batch.input[rows]), batch.target[rows], reduction="none")
            total = total + (0.5 * weights_of(batch.id[rows]) ** 2 * each).sum() / 8
        return total

    same(ours, by_hand(settings, loss))


def test_weights_of_one_train_as_without():
    @plugin
    class Ones(Plugin):
        """Weighs all alike."""

        @hookimpl
        def sample_weights(self, step):
            return torch.ones(len(step.ids), dtype=torch.bool)

    same(train(recipe(**PLAIN), plugins=[Ones()], write=False).student, train(recipe(**PLAIN), write=False).student)


def test_both_resume_bit_for_bit(tmp_path):
    settings = recipe(**{**PLAIN, "run__epochs": 2})
    plugins = [MixUp(), Weighs()]
    whole = train(settings, plugins=plugins, out=tmp_path / "whole")

    def stop(*_any: Any) -> None:
        raise KeyboardInterrupt

    cut = prepare(settings, plugins=plugins, out=tmp_path / "cut")
    cut.run.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), stop)
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    resumed = train(settings, plugins=plugins, out=tmp_path / "cut", resume=True)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value)


@plugin
class Replaces(Plugin):
    """Replaces what ``does`` replaces."""

    changes = ("inputs", "targets")
    does: ClassVar[Any] = None

    @hookimpl
    def prepare_batch(self, step):
        type(self).does(step)


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (lambda s: setattr(s, "inputs", s.inputs[:4]), r"step\.inputs: must keep the number of samples and the shape"),
        (
            lambda s: setattr(s, "inputs", s.inputs[..., :3]),
            r"step\.inputs: must keep .*\(2, 1, 6, 6\), got .*\(2, 1, 6, 3\)",
        ),
        (lambda s: setattr(s, "targets", s.targets[:7]), r"step\.targets: must have a target for each of the 8"),
        (lambda s: setattr(s, "targets", None), r"step\.targets: must be a tensor as before, got NoneType"),
        (lambda s: setattr(s, "inputs", s.inputs.clone().requires_grad_()), r"must have no gradient .*detach"),
        (lambda s: setattr(s, "ids", s.ids), r'step\.ids: .*changes = \("ids",\)'),
        (lambda s: setattr(s, "total", s.inputs), r"step\.total: .*combine_gradients"),
    ],
)
def test_a_replacement_that_does_not_fit_is_refused(does: Any, message: str, monkeypatch):
    monkeypatch.setattr(Replaces, "does", staticmethod(does))
    with pytest.raises(StillhouseError, match=message) as error:
        train(recipe(**PLAIN), plugins=[Replaces()], write=False)
    assert any("plugin 'replaces', hook 'prepare_batch'" in note for note in error.value.__notes__)


def test_what_changes_is_declared_with_the_hook():
    with pytest.raises(StillhouseError, match=r"changes names 'input'.*inputs, targets, ids"):
        plugin(type("Wrong", (Plugin,), {"changes": ("input",), "prepare_batch": MixUp.prepare_batch}))
    with pytest.raises(StillhouseError, match="must be a tuple of names, got the text 'inputs'"):
        plugin(type("Wrong", (Plugin,), {"changes": "inputs", "prepare_batch": MixUp.prepare_batch}))
    with pytest.raises(StillhouseError, match="has no such hook"):
        plugin(type("Wrong", (Plugin,), {"changes": ("inputs",)}))


def changing(*names: str) -> Plugin:
    return plugin(type("Changing", (Plugin,), {"changes": names, "prepare_batch": hookimpl(lambda self, step: None)}))()


@plugin
class Bank(Plugin):
    """Has rows by the samples' ids."""

    requires = ("ids",)


@pytest.mark.parametrize(
    ("beside", "name", "refused"),
    [
        (None, "inputs", "remembers the teacher's answers by sample, and the plugin 'changing' changes the inputs"),
        (None, "ids", "remembers the teacher's answers by sample, and the plugin 'changing' changes the ids"),
        (None, "targets", ""),
        (Bank(), "ids", "requires the ids that the data gives, and the plugin 'changing' changes the ids"),
        (Bank(), "inputs", ""),
    ],
)
def test_what_cannot_follow_refuses_the_list(beside: Any, name: str, refused: str):
    settings, plugins = recipe(), [changing(name), beside or Cache()]
    if not refused:
        prepare(settings, plugins=plugins, write=False)
        return
    with pytest.raises(StillhouseError, match=refused):
        prepare(settings, plugins=plugins, write=False)


def test_a_task_without_losses_by_sample_refuses_the_list_by_name():
    settings = recipe(teacher=None, task={"name": "self-supervised"})
    with pytest.raises(
        StillhouseError, match=r"plugin 'weighs': needs the loss of each sample.*SelfSupervised has none"
    ):
        prepare(settings, plugins=[Weighs()], write=False)


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (lambda step: None, "sample_weights gave NoneType"),
        (lambda step: torch.ones(3), r"sample_weights gave a tensor of shape .*a tensor \(2,\) on cpu"),
        (lambda step: torch.ones(8, 1), r"sample_weights gave a tensor of shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(gives: Any, message: str):
    @plugin
    class Wrong(Plugin):
        """Gives what are no weights."""

        @hookimpl
        def sample_weights(self, step):
            return gives(step)

    with pytest.raises(StillhouseError, match=message) as error:
        train(recipe(**PLAIN), plugins=[Wrong()], write=False)
    assert any("plugin 'wrong', hook 'sample_weights'" in note for note in error.value.__notes__)


def test_the_losses_of_samples_are_read_in_losses_and_not_before_there_are_any():
    @plugin
    class Hard(Plugin):
        """The mean over the harder half (online hard example mining, 1604.03540)."""

        weight: Weight = 1.0

        @hookimpl
        def losses(self, step):
            expected = F.cross_entropy(step.student.output, step.targets, reduction="none").detach()
            assert torch.equal(step.sample_losses, expected)
            hard = step.sample_losses.topk(len(expected) // 2).indices
            return {"": F.cross_entropy(step.student.output[hard], step.targets[hard])}

        @hookimpl
        def prepare_batch(self, step):
            with pytest.raises(StillhouseError, match=r"step\.sample_losses: is read before the student has answered"):
                _ = step.sample_losses
            SEEN.append("asked")

    train(recipe(**PLAIN), plugins=[Hard()], write=False)
    assert SEEN == ["asked"] * (1 + 3)  # the rehearsed step asks as well
