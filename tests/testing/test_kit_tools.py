"""The conformance kit as authors meet it: the command, a recipe of their own, tests under pytest."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from support import FEATURES, TESTS, recipe
from support.faulty_plugins import Right, Term
from support.faulty_steps import Guesser, Noisy
from support.forks import run
from support.wrong_plugins import wrong

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin, prepare
from stillhouse.cli import main
from stillhouse.testing import check_plugin
from stillhouse.testing.reads import watch_reads

TESTED = """
import pytest
from support.faulty_plugins import Right
from support.faulty_steps import Items

@pytest.mark.stillhouse_plugin(plugin=Right, options={"momentum": 0.5})
def test_right(conformance_check):
    conformance_check()

@pytest.mark.stillhouse_plugin(plugin=Items)
def test_items(conformance_check):
    conformance_check()

def test_unmarked(conformance_check):
    conformance_check()
"""


@pytest.mark.stillhouse_plugin(plugin=Right, options={"momentum": 0.5})
def test_the_mark_makes_a_test_for_each_check(conformance_check):
    conformance_check()


def test_under_pytest_a_mistake_fails_its_own_check(tmp_path: Path):
    (tmp_path / "test_tested.py").write_text(TESTED)
    chosen = ("-k", "waiting or documentation or unmarked", "-p", "no:cacheprovider")
    said = run("pytest", *chosen, cwd=tmp_path, PYTHONPATH=str(TESTS)).stdout
    assert re.search(r"2 failed, 2 passed, \d+ deselected, .*1 error", said), said
    assert re.search(r"hook 'losses', faulty_steps\.py:.* reads a tensor's value.*\n.*-> stay on the device", said)
    assert "test_unmarked needs the mark @pytest.mark.stillhouse_plugin(plugin=" in said


def test_the_command_reports_on_the_terminal_and_as_json(capsys: pytest.CaptureFixture[str]):
    assert main(["plugin", "check", "logits", "--only", "waiting", "--set", "temperature=2.0"]) == 0
    assert "1 checks passed, 0 failed" in capsys.readouterr().out
    wrong = ["plugin", "check", "support.faulty_steps:Items", "--only", "waiting", "--json"]
    assert main(wrong) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is False
    assert told["checks"][0]["findings"][0]["change"].startswith("stay on the device")


def test_a_recipe_gives_the_run_and_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    whole = recipe(FEATURES, {"use": "projector", "kind": "linear"})
    report = check_plugin("projector", recipe=whole)
    assert report.passed, report.to_dict()
    assert report.cost.parameters == 6 * 4
    file = tmp_path / "recipe.toml"
    file.write_text(whole.to_toml(), encoding="utf-8")
    assert main(["plugin", "check", "projector", "--recipe", str(file), "--only", "resume"]) == 0
    few = recipe({"use": "logits"}, data__per_class=2)
    assert check_plugin("logits", recipe=few, only=["training"]).passed
    with pytest.raises(StillhouseError, match="the recipe does not have the plugin 'logits'"):
        check_plugin("logits", recipe=whole)


def test_a_recipes_trained_teacher_is_left_untrained():
    teacher = recipe(teacher=None, run__name="teacher", run__epochs=1).to_dict()
    report = check_plugin("logits", recipe=recipe({"use": "logits"}, teacher={"recipe": teacher}), only=["teacher"])
    assert report.passed, report.to_dict()


def test_what_reads_values_on_the_host_alone_is_no_read():
    seen: list[str] = []
    labels = torch.tensor([0, 2])
    with watch_reads(lambda what, _: seen.append(what)):
        torch.nn.functional.one_hot(labels, 3)
        torch.nn.functional.one_hot(labels, num_classes=3)
        assert not seen
        torch.nn.functional.one_hot(labels)
    assert seen


@plugin
class Between(Plugin):
    """Relate each link to the next.

    Attributes:
        scale: a factor.
        weight: the term's factor.
    """

    requires = ("links",)

    scale: float
    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        if len(assembly.links) < 2:
            raise StillhouseError("needs two links")

    @hookimpl
    def losses(self, step):
        one, two = (link.student.float().flatten(1).mean(1) for link in step.match("*"))
        return {"": self.scale * (one - two).square().mean()}


def test_losses_that_give_nothing_are_noted():
    (outcome,) = check_plugin(type(wrong(losses=lambda plugin, step: {})), only=["terms"]).outcomes
    assert [note.text for note in outcome.notes if "gave no term in any step" in note.text]


@plugin
class Calm(Noisy):
    """The same with the network in eval mode."""

    @hookimpl
    def build(self, assembly):
        module = Guesser(3, 3)
        module.network.eval()
        return module


@plugin
class Average(Noisy):
    """The same with a network that hooks move, as an average of another is moved."""

    @hookimpl
    def optimizer_stepped(self, run, step):
        for parameter in step.module(self).network.parameters():
            parameter.mul_(0.99)


def test_a_frozen_network_in_train_mode_is_named_with_the_line_to_write():
    (finding,) = check_plugin(Noisy, only=["frozen-networks"]).outcomes[0].findings
    assert "plugin 'noisy': the frozen network 'network' of its module is in train mode" in finding.what
    assert "the statistics of 'network.1' move and 'network.2' drops out at random" in finding.what
    assert "`network.requires_grad_(False).eval()`" in finding.change
    notes = prepare(recipe(), plugins=[Noisy()], write=False).assembly.notes["noisy"]
    assert [note for note in notes if note.startswith("the frozen network 'network' of its module is in train mode")]


def test_a_frozen_network_in_eval_mode_is_right_and_one_that_moves_is_noted():
    (calm,) = check_plugin(Calm, only=["frozen-networks"]).outcomes
    assert (calm.findings, calm.notes) == ((), ())
    (average,) = check_plugin(Average, only=["frozen-networks"]).outcomes
    assert average.findings == ()
    assert "its weights move" in average.notes[0].text


def test_what_the_engine_warns_of_is_not_swallowed():
    (outcome,) = check_plugin(type(wrong(losses=lambda plugin, step: {})), only=["remarks"]).outcomes
    assert [note.text for note in outcome.notes if "gave no loss term in" in note.text]
    assert check_plugin(Term, only=["remarks"]).outcomes[0].notes == ()


def test_two_links_are_there_for_what_needs_two():
    assert check_plugin(Between, options={"scale": 1.0}, only=["training"]).passed


def test_options_that_must_be_given_are_named():
    with pytest.raises(StillhouseError, match=r"the option 'scale': must be given .*--set"):
        check_plugin(Between)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: torch.nonzero(x),
        lambda x: x.__setitem__(0, 1.0),
    ],
)
def test_the_watch_sees_a_read_and_lets_it_happen(read):
    seen: list[str] = []
    x = torch.ones(3)
    with watch_reads(lambda what, _: seen.append(what)):
        (x * 2).sum()
        assert not seen
        read(x)
    assert seen
    read(x)
    assert torch.Tensor.item is torch._C.TensorBase.item or "item" not in vars(torch.Tensor)
