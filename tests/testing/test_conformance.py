"""Each check of the conformance kit finds its mistake, and none finds one in a plugin that has none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import faulty_state, faulty_steps
from support.faulty_plugins import MISTAKES, Right
from torch import nn

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin
from stillhouse.terminal import Terminal
from stillhouse.testing import check_plugin
from stillhouse.testing.conformance import CHECKS, name_of

assert faulty_state, faulty_steps  # they have put theirs into MISTAKES
FIRST_PARTY = ("cache", "features", "logits", "normalizer", "projector", "spectral", "tcs")
SLOW = ("compilation", "processes")


def failed(report):
    return {outcome.check: outcome.findings for outcome in report.outcomes if outcome.findings}


def find(check: str, cls: type[Plugin], **options) -> None:
    found = failed(check_plugin(cls, only=[check], **options))
    assert check in found, found
    assert all(finding.what and finding.change for finding in found[check])


@pytest.mark.parametrize(("check", "cls"), [pair for pair in MISTAKES if pair[0] not in SLOW])
def test_a_check_finds_its_mistake(check: str, cls: type[Plugin]):
    find(check, cls)


@pytest.mark.slow
@pytest.mark.parametrize(("check", "cls"), [pair for pair in MISTAKES if pair[0] in SLOW])
def test_a_slow_check_finds_its_mistake(check: str, cls: type[Plugin]):
    find(check, cls, slow=True)


def test_every_check_has_a_mistake_that_it_finds():
    assert {check for check, _ in MISTAKES} == {name_of(check) for check in CHECKS}


def test_a_right_plugin_passes_and_is_reported_with_its_cost():
    report = check_plugin(Right)
    assert failed(report) == {}
    assert report.passed
    assert report.cost is not None
    assert report.cost.parameters == 16 * 16 + 16
    assert report.cost.buffers == 16
    assert report.cost.saved_bytes > report.cost.saved_bytes_without > 0
    report.raise_for_findings()
    told = json.loads(json.dumps(report.to_dict()))
    assert [check["check"] for check in told["checks"]] == [name_of(check) for check in CHECKS]
    assert {check["status"] for check in told["checks"]} == {"passed", "not run"}


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_every_plugin_of_ours_passes(name: str):
    assert failed(check_plugin(name)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_PARTY)
def test_every_plugin_of_ours_passes_compiled_and_in_two_processes(name: str):
    assert failed(check_plugin(name, slow=True, only=SLOW)) == {}


@plugin
class Recurrent(Plugin):
    """Has a layer that keeps its parameters in a list as well."""

    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly: Any) -> nn.Module:
        return nn.LSTM(assembly.data.classes, assembly.data.classes, batch_first=True)

    @hookimpl
    def losses(self, step: Any) -> Any:
        logits = step.student.output.float()
        return {"": (step.module(self)(logits[:, None].expand(-1, 2, -1))[0][:, -1] - logits).square().mean()}


def test_a_layer_may_have_its_parameters_twice():
    assert failed(check_plugin(Recurrent, only=["module-state"])) == {}


def test_a_finding_names_hook_and_line_and_says_what_to_write():
    report = check_plugin(dict(reversed(MISTAKES))["waiting"], only=["waiting"])
    console = Terminal(width=200)
    with console.capture() as shown:
        report.print(console)
    assert "hook 'losses', faulty_steps.py:" in shown.get()
    assert "-> stay on the device" in shown.get()
    with pytest.raises(StillhouseError, match="does not pass the conformance kit"):
        report.raise_for_findings()


def test_what_does_not_train_is_asked_nothing_more():
    report = check_plugin(next(cls for _, cls in MISTAKES if cls.__name__ == "Raises"))
    assert {outcome.check for outcome in report.outcomes if outcome.findings} == {"documentation", "training"}
    assert {outcome.status for outcome in report.outcomes if outcome.check == "resume"} == {"not run"}
    assert report.cost is None


def test_what_cannot_be_checked_is_said():
    with pytest.raises(StillhouseError, match="did you mean 'resume'"):
        check_plugin("logits", only=["resum"])
    with pytest.raises(StillhouseError, match="no-such-plugin"):
        check_plugin("no-such-plugin")
    with pytest.raises(StillhouseError, match="temperature"):
        check_plugin("logits", options={"temperature": -1.0}).raise_for_findings()

    @plugin
    class Needs(Plugin):
        """Needs what nobody provides."""

        requires = ("starlight",)

    with pytest.raises(StillhouseError, match="no installed plugin provides it"):
        check_plugin(Needs)
