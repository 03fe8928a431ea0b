"""The hook ``adapt``: a changed student is trained, saved, measured and taken back; and the optimizer's groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import TinyNet, recipe, same_state
from torch import nn

from stillhouse import Assembly, Plugin, StillhouseError, hookimpl, plugin, prepare, train


class Wrapped(nn.Module):
    """The head and a trainable scale."""

    def __init__(self, inner: nn.Linear, size: int) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.rand(inner.out_features))
        self.register_buffer("sized", torch.zeros(size))

    def fit_to(self, state: dict[str, Any]) -> None:
        if "sized" in state:
            self.sized = self.sized.new_empty(state["sized"].shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale


@plugin
class Scale(Plugin):
    """Scales the logits."""

    size: int = 3

    @hookimpl
    def adapt(self, assembly: Assembly, student: nn.Module) -> nn.Module:
        assert assembly.batches is not None
        student.head = Wrapped(student.head, self.size)
        return student

    @hookimpl
    def optimizer_options(self, assembly: Assembly) -> dict[str, Any]:
        return {"weight_decay": 0.0, "student": ["head.sc*"]}

    @hookimpl
    def export(self, assembly: Assembly, student: nn.Module) -> nn.Module:
        head = student.head
        plain = TinyNet()
        state = {k: v for k, v in student.state_dict().items() if not k.startswith("head.")}
        plain.load_state_dict(
            {**state, "head.weight": head.inner.weight * head.scale[:, None], "head.bias": head.inner.bias * head.scale}
        )
        return plain


def test_what_adapt_adds_is_the_students():
    training = prepare(recipe(), plugins=[Scale()], write=False)
    groups = {g["name"]: g for g in training.optimizer.param_groups}
    assert groups["scale"]["params"] == [training.run.student.head.scale]
    assert groups["scale"]["weight_decay"] == 0.0
    assert len(groups["student"]["params"]) == len(list(training.run.student.parameters())) - 1
    before = training.run.student.head.scale.detach().clone()
    result = training.fit()
    assert not torch.equal(training.run.student.head.scale, before)
    assert {"student.head.scale", "student.head.inner.weight"} <= set(training.run.composition.state_dict())
    assert set(result.student.state_dict()) == set(TinyNet().state_dict())
    x = torch.randn(5, 1, 6, 6)
    torch.testing.assert_close(result.student(x), training.run.student.eval()(x))


@pytest.mark.filterwarnings("ignore:.*'head.sc.*' matches none")  # another plugin has wrapped the student
def test_the_seed_of_adapt_is_its_own():
    alone = prepare(recipe(), plugins=[Scale()], write=False).run.student.head.scale
    other = prepare(recipe(), plugins=[Scale(), Twice()], write=False).run.student.inner.head.scale
    again = prepare(recipe(run__seed=4), plugins=[Scale()], write=False).run.student.head.scale
    assert torch.equal(alone, other)
    assert not torch.equal(alone, again)


@plugin
class Twice(Plugin):
    """Doubles what the student gives, from the outside."""

    @hookimpl
    def adapt(self, student: nn.Module) -> nn.Module:
        class Doubled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = student

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return 2 * self.inner(x)

        return Doubled()

    @hookimpl
    def export(self, student: nn.Module) -> nn.Module:
        return student.inner if hasattr(student, "inner") else student


def test_another_module_may_take_the_students_place():
    training = prepare(recipe(), plugins=[Twice()], write=False)
    assert type(training.run.student).__name__ == "Doubled"
    assert all(k.startswith("inner.") for k in training.run.student.state_dict())
    assert isinstance(training.fit().student, TinyNet)


def test_none_leaves_the_student():
    @plugin
    class Look(Plugin):
        """Looks."""

        @hookimpl
        def adapt(self, assembly: Assembly) -> None:
            assert not hasattr(assembly, "composition")

    assert same_state(
        train(recipe(), plugins=[Look()], write=False).student.state_dict(),
        train(recipe(), write=False).student.state_dict(),
    )


def test_a_wrong_adapt_is_named():
    @plugin
    class Wrong(Plugin):
        """Gives something else."""

        @hookimpl
        def adapt(self, assembly: Assembly) -> Any:
            return 3

    with pytest.raises(StillhouseError, match="plugin 'wrong': adapt gave int"):
        prepare(recipe(), plugins=[Wrong()], write=False)

    @plugin
    class Broken(Plugin):
        """Fails."""

        @hookimpl
        def adapt(self, assembly: Assembly) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        prepare(recipe(), plugins=[Broken()], write=False)
    assert caught.value.__notes__ == ["in plugin 'broken', hook 'adapt'"]


def test_it_resumes_bit_for_bit_and_shapes_come_from_the_checkpoint(tmp_path: Path):
    from ignite.engine import Events

    whole = prepare(recipe(checkpoints={"every_steps": 1}), plugins=[Scale(size=5)], write=False)
    whole.fit()

    class Stop(BaseException):
        pass

    def stop() -> None:
        raise Stop

    first = prepare(recipe(checkpoints={"every_steps": 1}), plugins=[Scale(size=5)], out=tmp_path / "run")
    first.run.trainer.add_event_handler(Events.ITERATION_STARTED(once=5), stop)
    with pytest.raises(Stop):
        first.fit()
    second = prepare(recipe(checkpoints={"every_steps": 1}), plugins=[Scale(size=5)], out=tmp_path / "run", resume=True)
    second.run.student.head.sized = torch.zeros(1)  # as if the data had come out otherwise
    second.fit()
    assert same_state(whole.run.composition.state_dict(), second.run.composition.state_dict())
