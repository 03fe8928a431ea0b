"""A run does not wait for itself, and its optimizer is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import recipe

from stillhouse import StillhouseError, prepare, train


@pytest.mark.parametrize("place", ["", "checkpoints/last_3.pt"])
def test_a_run_takes_no_teacher_and_no_start_from_its_own_folder(place: str, tmp_path: Path):
    train(recipe(teacher=None, run__epochs=1), out=tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    own = str(tmp_path / "link" / place)
    asked = recipe(teacher={"checkpoint": own, "model": "support:TinyNet"}, student__checkpoint=own, run__epochs=1)
    with pytest.raises(StillhouseError) as caught:
        prepare(asked, out=tmp_path / "run", resume=True)
    said = "lies in the run's own folder, so that the run would wait for itself"
    assert [(f.where, said in f.what) for f in caught.value.faults] == [
        ("teacher.checkpoint", True),
        ("student.checkpoint", True),
    ]
    assert {file.name for file in tmp_path.iterdir()} == {"link", "run"}
    prepare(asked, out=tmp_path / "other").close()


@pytest.mark.parametrize(
    "name", ["builtins:dict", "builtins:exit", "torch.optim:Optimizer", "torch.optim.lr_scheduler:StepLR"]
)
def test_an_optimizer_that_is_none(name: str):
    with pytest.raises(StillhouseError, match=r"optimizer.name: .* must be a class of optimizers, got"):
        prepare(recipe(teacher=None, optimizer__name=name), write=False)


def test_an_optimizer_by_its_path_is_torchs():
    training = prepare(recipe(teacher=None, optimizer__name="torch.optim:SGD"), write=False)
    training.close()
    assert type(training.optimizer).__name__ == "SGD"
