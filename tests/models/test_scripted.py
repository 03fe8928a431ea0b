"""Programs of TorchScript: teachers whose output is read; as students, or as files of weights, refused with a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import FIVE, TinyNet, recipe

from stillhouse import StillhouseError, train
from stillhouse.models.scripted import Scripted

MAKE: dict[str, Callable[[torch.nn.Module], torch.jit.ScriptModule]] = {
    "script": torch.jit.script,
    "trace": lambda module: torch.jit.trace(module, torch.zeros(2, 1, 6, 6)),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")


@pytest.fixture(params=MAKE)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, TinyNet]:
    """A file, and the module that it was made of."""
    torch.manual_seed(0)
    module = TinyNet(width=6).eval()
    torch.jit.save(MAKE[request.param](module), tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt", module


def test_a_programs_output_teaches_as_its_modules_does(program: tuple[Path, TinyNet]):
    file, module = program
    asked = recipe(FIVE["logits"], teacher=None, run__epochs=1)
    wanted = train(asked, teacher=module, write=False)
    found = train(asked, teacher=torch.jit.load(file), write=False)
    for key, value in wanted.student.state_dict().items():
        torch.testing.assert_close(found.student.state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_a_program_moves_and_changes_its_mode_as_a_whole(program: tuple[Path, TinyNet]):
    file, module = program
    scripted = Scripted(torch.jit.load(file)).to(torch.float64).requires_grad_(False).eval()
    x = torch.randn(3, 1, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(scripted(x), module.double()(x))
    assert {p.dtype for p in scripted.parameters()} == {torch.float64}
    assert sum(p.numel() for p in scripted.parameters()) == sum(p.numel() for p in module.parameters())
    assert not any(p.requires_grad for p in scripted._program.parameters())
    assert scripted._program.training is False


def test_what_a_program_is_no_good_for(program: tuple[Path, TinyNet]):
    file, _ = program
    with pytest.raises(StillhouseError, match=r"links.*the teacher has no layer 'body'"):
        train(recipe(FIVE["features"], teacher=None), teacher=torch.jit.load(file), write=False)
    with pytest.raises(StillhouseError, match="student: is a TorchScript program, which cannot be taken apart"):
        train(recipe(teacher=None), student=torch.jit.load(file), write=False)
    given = {"checkpoint": str(file), "model": "support:TinyNet", "args": {"width": 6}}
    with pytest.raises(
        StillhouseError, match=r"is a TorchScript program, which is code, and is not run \(save its weights"
    ):
        train(recipe(FIVE["logits"], teacher=given), write=False)
