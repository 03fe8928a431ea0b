"""What a run says of its terms' gradients beforehand, and of the first value that is not finite while it is debugged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from support import FEATURES, TinyNet, recipe, same_state
from support.wrong_plugins import out, wrong
from torch import nn

from stillhouse import StillhouseError, prepare, train
from stillhouse.cli import main
from stillhouse.training.debugging import fit_watched
from stillhouse.training.term_gradients import measure_gradients

TWO = (FEATURES, {"use": "projector", "kind": "linear"}, {"use": "logits", "weight": 0.5})


def debugged(*plugins, **changes):
    with pytest.raises(StillhouseError) as caught:
        fit_watched(prepare(recipe(teacher=None, **changes), plugins=list(plugins), write=False))
    return str(caught.value)


def test_the_gradients_are_those_of_the_terms_and_leave_no_trace():
    training = prepare(recipe(*TWO), write=False)
    before = {name: value.clone() for name, value in training.run.composition.state_dict().items()}
    state = torch.get_rng_state()
    rows = {row["term"]: row for row in measure_gradients(training)}
    assert list(rows) == ["task", "features", "logits"]
    assert rows["task"]["cosine"] == pytest.approx(1.0)
    assert rows["logits"]["norms"]["projector"] is None
    assert rows["features"]["norms"]["projector"] > 0
    assert rows["logits"]["weight"] == 0.5
    doubled = prepare(recipe(FEATURES, TWO[1], {"use": "logits", "weight": 1.0}), write=False)
    twice = {row["term"]: row for row in measure_gradients(doubled)}
    assert twice["logits"]["norms"]["student"] == pytest.approx(2 * rows["logits"]["norms"]["student"])
    assert same_state(before, training.run.composition.state_dict())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in training.run.composition.parameters())
    assert same_state(training.fit().student.state_dict(), train(recipe(*TWO), write=False).student.state_dict())


def test_the_norm_is_that_of_backward():
    training = prepare(
        recipe(teacher=None, student={"model": "support:TinyNet", "args": {"dropout": 0.0}}), write=False
    )
    (row,) = measure_gradients(training)
    batch = training.first_batch()
    training.run.composition.train()
    training.run.task.loss(training.run.student(batch.input), batch.target).backward()
    squares = [p.grad.double().square().sum() for p in training.run.student.parameters()]
    assert row["norms"]["student"] == pytest.approx(math.sqrt(sum(squares)), rel=1e-6)


def test_the_command_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "recipe.toml"
    file.write_text(recipe(*TWO).to_toml(), encoding="utf-8")
    assert main(["explain", str(file), "--gradients"]) == 0
    assert "cosine with the task's" in capsys.readouterr().out
    assert main(["explain", str(file), "--gradients", "--json"]) == 0
    assert [row["term"] for row in json.loads(capsys.readouterr().out)["gradients"]] == ["task", "features", "logits"]


def test_debugging_changes_no_number():
    plain = train(recipe(*TWO), write=False)
    watched = fit_watched(prepare(recipe(*TWO), write=False))
    assert same_state(plain.student.state_dict(), watched.student.state_dict())


def test_a_term_that_is_not_finite_is_named_with_its_step():
    plugin = wrong(losses=lambda _, s: {"far": out(s).mean() * (math.nan if s.iteration == 4 else 1.0)})
    assert "epoch 2, step 5: plugin 'wrong', hook 'losses': the loss term 'far' is not finite" in debugged(plugin)


def test_an_operation_whose_gradient_is_nan_is_named_by_its_line():
    plugin = wrong(losses=lambda _, s: {"": (out(s) * 0).square().sum().sqrt() + out(s).mean()})
    said = debugged(plugin)
    assert "the gradient of an operation is NaN, computed at test_debugging.py:" in said
    assert "Backward0" in said


def test_a_layer_is_named_with_its_model():
    class Breaks(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.log = Log()

        def forward(self, x):
            self.calls += self.training
            return self.head(self.log(torch.relu(self.stem(x)).mean((2, 3)) - (1e6 if self.calls > 3 else 0)))

    class Log(nn.Module):
        def forward(self, x):
            return torch.where(x < -10, torch.log(x), x)

    training = prepare(recipe(teacher=None), student=Breaks(), write=False)
    with pytest.raises(
        StillhouseError, match=r"the layer 'log' of student gives the first values .*\(its inputs are finite"
    ):
        fit_watched(training)
    assert not any(module._forward_hooks for module in training.run.student.modules())


def test_a_mistake_of_a_later_step_is_found():
    def losses(_, step):
        if step.iteration == 3:
            step.student.output.detach().mul_(2)
        return {"": out(step).square().mean()}

    assert "losses changes step.student.output in place" in debugged(wrong(losses=losses))


def test_what_cannot_be_debugged_is_said():
    said = debugged(speed={"compile": "student", "compile_args": {"backend": "eager"}})
    assert "speed.compile" in said


def test_the_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "recipe.toml"
    file.write_text(recipe(teacher=None).to_toml(), encoding="utf-8")
    assert main(["train", str(file), "--debug", "--quiet", "--out", str(tmp_path / "run")]) == 0
    assert "run folder" in capsys.readouterr().out
