"""Too little memory: what was tried and what to lower, wherever it shows; other errors pass as they are."""

from __future__ import annotations

import pytest
import torch
from support import TinyNet, command, recipe, tables

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin, train
from stillhouse.errors import first_line


@plugin
class Greedy(Plugin):
    """Says what torch says when memory is not enough."""

    error: str = "cuda"
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        if step.student.output.requires_grad:
            text = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."
            if self.error == "cpu":
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            raise torch.OutOfMemoryError(text) if self.error == "cuda" else MemoryError
        return {"": step.student.output.square().mean()}


@pytest.mark.parametrize("error", ["cuda", "cpu", "python"])
def test_too_little_memory_says_what_was_tried_and_what_to_lower(error: str):
    with pytest.raises(StillhouseError) as caught:
        train(recipe(run__precision="float32"), plugins=[Greedy(error=error)], write=False)
    (fault,) = caught.value.faults
    assert "(8, 1, 6, 6) in float32" in fault.what
    assert "support:TinyNet" in fault.what
    assert "accumulate = 2" in fault.hint
    assert "batch_size = 4" in fault.hint
    assert 'precision = "bfloat16"' in fault.hint
    assert any("plugin 'greedy', hook 'losses'" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("where", ["assembly", "moving", "evaluation"])
def test_too_little_memory_is_said_wherever_it_shows(where: str):
    class Large(TinyNet):
        def forward(self, x):
            if where == "assembly" or (where == "evaluation" and not self.training):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x)

        def _apply(self, function, recurse=True):
            if where == "moving":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super()._apply(function, recurse)

    with pytest.raises(StillhouseError, match=r"out of memory with batches of \(8, 1, 6, 6\)"):
        train(recipe(teacher=None), student=Large(), write=False)


def test_out_of_memory_ends_the_command_with_code_2(tmp_path, fake_distribution, monkeypatch):
    source = (
        "import torch\nfrom stillhouse import Plugin, Weight, hookimpl, plugin\n\n\n@plugin\nclass Hungry(Plugin):\n"
        "    weight: Weight = 1.0\n\n    @hookimpl\n    def losses(self, step):\n"
        "        if step.student.output.requires_grad:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory.')\n        return {}\n"
    )
    import tomli_w

    site = fake_distribution("hungry", {"hungry": "hungry:Hungry"}, source)
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(tables(plugins=[{"use": "hungry"}])))
    done = command("train", str(path), "--out", str(tmp_path / "run"), "--quiet", PYTHONPATH=str(site))
    assert done.returncode == 2, done.stderr
    assert "out of memory with batches of (8, 1, 6, 6)" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_errors_pass_as_they_are():
    class Broken(TinyNet):
        def forward(self, x):
            if self.training and torch.is_grad_enabled():
                raise ValueError("not memory")
            return super().forward(x)

    with pytest.raises(ValueError, match="not memory"):
        train(recipe(teacher=None), student=Broken(), write=False)


def test_the_first_line_says_something():
    assert first_line(ValueError("\n  \nbackend='x' raised:\nno compiler\nmore")) == "backend='x' raised: no compiler"
    assert first_line(ValueError()) == "ValueError"
