"""What hooks get before training, and in it: Assembly and Run, each for its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from ignite.engine import Events
from support import FEATURES, recipe
from torch import nn

from stillhouse import Assembly, Plugin, Run, StillhouseError, Weight, hookimpl, load_student, plugin, prepare, train
from stillhouse.contract.assembly import Facts, Rows
from stillhouse.students.saved_run import open_run

ONLY_IN = "can be read in build and add_links only"


@plugin
class Reads(Plugin):
    """Reads ``what`` of the assembly in the hook ``at``."""

    at: str
    what: str

    def _read(self, at: str, assembly: Assembly) -> Any:
        return getattr(assembly, self.what) if at == self.at else None

    @hookimpl
    def adapt(self, assembly: Assembly) -> None:
        self._read("adapt", assembly)

    @hookimpl
    def add_taps(self, assembly: Assembly) -> list[Any]:
        self._read("add_taps", assembly)
        return []

    @hookimpl
    def build(self, assembly: Assembly) -> None:
        assert self._read("build", assembly) or self.at != "build"

    @hookimpl
    def add_links(self, assembly: Assembly) -> list[Any]:
        assert self._read("add_links", assembly) or self.at != "add_links"
        return []

    @hookimpl
    def optimizer_options(self, assembly: Assembly) -> dict[str, Any]:
        return self._read("optimizer_options", assembly) or {}

    @hookimpl
    def metrics(self, assembly: Assembly) -> dict[str, Any]:
        return self._read("metrics", assembly) or {}


@pytest.mark.parametrize("what", ["features", "links"])
@pytest.mark.parametrize("at", ["adapt", "add_taps"])
def test_what_the_first_forward_pass_gives_is_not_there_before_it(at: str, what: str):
    from stillhouse_features import Features

    with pytest.raises(StillhouseError, match=rf"plugin 'reads': assembly\.{what} {ONLY_IN}.*read it in build"):
        prepare(recipe(), plugins=[Features(links=FEATURES["links"]), Reads(at=at, what=what)], write=False)


@pytest.mark.parametrize("what", ["features", "links"])
@pytest.mark.parametrize("at", ["build", "add_links", "optimizer_options", "metrics"])
def test_it_is_there_in_build_and_add_links_and_gone_after_them(at: str, what: str):
    from stillhouse_features import Features

    plugins = [Features(links=FEATURES["links"]), Reads(at=at, what=what)]
    if at in ("build", "add_links"):
        prepare(recipe(teacher__args={"width": 4}), plugins=plugins, write=False)
    else:
        with pytest.raises(StillhouseError, match=ONLY_IN):
            prepare(recipe(teacher__args={"width": 4}), plugins=plugins, write=False)


def test_a_run_is_complete_from_the_first_hook_on_and_cannot_be_written(tmp_path: Path):
    seen: list[Run] = []

    @plugin
    class Looks(Plugin):
        """Looks at the run as early as it can."""

        @hookimpl
        def started(self, run: Run) -> None:
            assert all(getattr(run, field.name) is not None for field in attrs.fields(Run) if field.name != "teacher")
            assert run.optimizer.param_groups[0]["name"] == "student"
            assert run.trainer.state.epoch_length == run.steps_per_epoch
            seen.append(run)

    training = prepare(recipe(), plugins=[Looks()], out=tmp_path / "run")
    training.fit()
    (run,) = seen
    assert run is training.run
    assert run.writes
    assert run.folder == tmp_path / "run"
    assert set(run.metrics) == {"val", "test"}
    for field in attrs.fields(Facts):
        assert getattr(run, field.name) is getattr(training.assembly, field.name)
    with pytest.raises(StillhouseError, match=r"run\.student: cannot be written here .*step\.memo"):
        run.student = nn.Identity()  # type: ignore[misc]  # that is what is refused
    assert not prepare(recipe(), write=False).run.writes


def test_rows_number_the_training_samples_of_a_subset():
    training = prepare(recipe(teacher=None, data__per_class=2, data__batch_size=4), write=False)
    rows, ids = training.assembly.rows, torch.as_tensor(training.data.passes.ids("train"))
    assert rows.count == len(rows) == len(ids) == training.run.data.sizes["train"] == 6
    assert ids.max() > 6  # positions in the source: no rows of a bank
    assert rows(ids.flip(0)).tolist() == [5, 4, 3, 2, 1, 0]
    batch = next(training.data.training())
    assert torch.equal(ids[rows(batch.id)], batch.id)
    training.close()
    stranger = next(i for i in range(24) if i not in ids)
    for outside in (stranger, 10**6):
        with pytest.raises(StillhouseError, match=f"the sample {outside} is not one of the training split"):
            rows(torch.tensor([int(ids[0]), outside]))


def test_ids_are_asked_for_once_and_only_when_needed():
    asked: list[int] = []

    def find() -> torch.Tensor:
        asked.append(1)
        return torch.tensor([2, 5, 9])

    rows = Rows(3, find)
    assert len(rows) == 3
    assert not asked
    assert rows(torch.tensor([9, 2])).tolist() == [2, 0]
    assert rows(torch.tensor([5])).tolist() == [1]
    assert asked == [1]


@plugin
class Bank(Plugin):
    """Remembers the last output of every training sample."""

    weight: Weight = 0.1

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        module = nn.Module()
        module.register_buffer("memory", torch.zeros(assembly.rows.count, 3))
        module.rows = assembly.rows
        return module

    @hookimpl
    def losses(self, step: Any) -> dict[str, torch.Tensor]:
        module = step.module(self)
        rows = module.rows(step.ids)
        term = (step.student.output - module.memory[rows]).square().mean()
        with torch.no_grad():
            module.memory[rows] = step.student.output.detach()
        return {"": term}

    @hookimpl
    def export(self, assembly: Assembly, student: nn.Module) -> nn.Module:
        assert assembly.module(self).memory.abs().sum() > 0  # the checkpoint's
        assert assembly.inspect_only == (assembly.batches is None)
        return student


def test_a_memory_bank_is_trained_resumed_and_loaded(tmp_path: Path):
    made = recipe(teacher=None, data__per_class=4)
    whole = prepare(made, plugins=[Bank()], write=False)
    whole.fit()
    cut = prepare(made, plugins=[Bank()], out=tmp_path / "run")
    cut.run.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), _killed)
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    train(made, plugins=[Bank()], out=tmp_path / "run", resume=True)
    state = torch.load(open_run(tmp_path / "run", weights="last").checkpoint, weights_only=False)["model"]
    memory = whole.assembly.module(whole.actives[0].plugin).memory
    assert torch.equal(state["plugins.plugin_bank.memory"], memory)
    assert load_student(tmp_path / "run", plugins=[Bank()]) is not None


def _killed() -> None:
    raise KeyboardInterrupt


def test_a_loaded_run_takes_any_sample_for_row_0():
    rows = Rows(4)
    assert rows.count == 4
    assert rows(torch.tensor([7, 1])).tolist() == [0, 0]


def test_the_owner_lets_go_of_the_teacher():
    from stillhouse_features import Features

    @plugin
    class Serves(Plugin):
        """Answers for the teacher."""

        requires = ("teacher",)

        @hookimpl
        def build(self, assembly: Assembly) -> None:
            assert assembly.teacher is not None
            assembly.release_teacher(self, for_all=True)

    training = prepare(
        recipe(teacher__args={"width": 4}), plugins=[Features(links=FEATURES["links"]), Serves()], write=False
    )
    assert training.assembly.teacher is None
    assert training.run.teacher is None
