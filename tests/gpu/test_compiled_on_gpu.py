"""torch.compile on the device: graph breaks are counted, nothing is compiled twice, and losses agree with eager's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _gpu_cases import SMALL_PAIRS, TARGET_SET, Case, recipe

from stillhouse import prepare
from stillhouse.loop.phases import Phase
from stillhouse.training.compilation import graph_breaks

pytestmark = pytest.mark.gpu

VIT = Case("compile", SMALL_PAIRS["ViT-Tiny <- ViT-Small"], TARGET_SET)
STEPS = 4


def prepared(case: Case, device: str, **tables: Any) -> Any:
    return prepare(recipe(case, device, steps=STEPS, **tables), write=False)


@pytest.mark.parametrize("pair", SMALL_PAIRS)
def test_student_and_teacher_are_one_graph_with_their_taps(pair: str, device: str):
    training = prepared(Case("compile", SMALL_PAIRS[pair], "all five"), device)
    run = training.run
    x = torch.rand(4, 3, SMALL_PAIRS[pair].size, SMALL_PAIRS[pair].size, device=device)
    if SMALL_PAIRS[pair].channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert {which: graph_breaks(m, x) for which, m in (("student", run.student), ("teacher", run.teacher))} == {
            "student": [],
            "teacher": [],
        }


def losses_and_graphs(training: Any) -> tuple[torch.Tensor, list[int]]:
    """The total loss of each step, and how many graphs were compiled until then."""
    found: list[torch.Tensor] = []
    graphs: list[int] = []

    def look() -> None:
        found.append(training.run.trainer.state.step.total.detach())
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, look)
    training.fit()
    return torch.stack(found).float().cpu(), graphs


@pytest.mark.parametrize("which", ["student", "teacher", "both"])
def test_inductor_agrees_with_eager_and_compiles_once(which: str, device: str):
    eager, _ = losses_and_graphs(prepared(VIT, device, run={"precision": "float32"}))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    speed = {"compile": which, "compile_args": {"fullgraph": True, "backend": "inductor"}}
    compiled, graphs = losses_and_graphs(prepared(VIT, device, run={"precision": "float32"}, speed=speed))
    assert graphs[0] >= 1
    assert graphs[0] == graphs[-1], "a step compiles nothing anew"
    torch.testing.assert_close(compiled, eager, rtol=1e-2, atol=1e-3)


def test_cuda_graphs_give_taps_that_live_through_the_step(device: str):
    """``reduce-overhead`` replays into the same memory: what the taps read must not be overwritten before it is used."""
    if device == "cpu":
        pytest.skip("CUDA graphs are CUDA's")
    eager, _ = losses_and_graphs(prepared(VIT, device, run={"precision": "float32"}))
    torch._dynamo.reset()
    speed = {"compile": "both", "compile_args": {"mode": "reduce-overhead"}}
    replayed, _ = losses_and_graphs(prepared(VIT, device, run={"precision": "float32"}, speed=speed))
    torch.testing.assert_close(replayed, eager, rtol=1e-2, atol=1e-3)
