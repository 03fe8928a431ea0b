"""What a folded teacher is called with after the batch that it was folded with, by whom, and what it leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import interrupted, recipe
from support.folding import Net, folded_net, images, settle, tap
from torch import Tensor, nn

from stillhouse import prepare, train
from stillhouse.assembly.folded_norms import fold_norms


class Crops(Net):
    """Takes one image or several, whose maps are made before the first is normalised."""

    def forward(self, x: Any) -> Tensor:
        maps = [self.conv1(each) for each in (x if isinstance(x, list) else [x])]
        return sum((self.body(self.bn1(y)).mean((2, 3)) for y in maps), torch.zeros(()))


class Larger(Net):
    """Does not normalise images above a size."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        return self.body(y if x.shape[-1] > 9 else self.bn1(y)).mean((2, 3))


class Fails(Net):
    """Fails between a convolution and its normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        if x.shape[-1] > 9:
            raise ValueError("too large")
        return self.body(self.bn1(y)).mean((2, 3))


def replaced(net: Net) -> None:
    net.bn1 = settle(nn.Sequential(nn.BatchNorm2d(6)), 5)[0]


@pytest.mark.parametrize(
    ("kind", "change", "inputs"),
    [
        (Crops, None, [images(), images(seed=2)]),
        (Larger, None, torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(3))),
        (Net, replaced, images()),
    ],
)
def test_an_answer_that_goes_elsewhere_than_in_the_example_is_given_plainly(
    kind: type[Net], change: Callable[[Net], None] | None, inputs: Any
):
    net = settle(kind())
    tapped = tap(net)
    assert fold_norms(tapped, images()) is not None
    if change is not None:
        change(net)
    found = tapped(inputs).output
    assert not any("forward" in vars(module) for module in net.modules())
    torch.testing.assert_close(found, net(inputs), rtol=0, atol=0)


def test_a_call_that_fails_leaves_no_map_behind():
    net = settle(Fails())
    tapped = tap(net)
    folded = fold_norms(tapped, images())
    assert folded is not None
    expected = tapped(images()).output
    with pytest.raises(ValueError, match="too large"):
        tapped(torch.zeros(2, 3, 12, 12))
    assert [(pair.given, pair.passed) for pair in folded._pairs] == [(None, None)] * 2
    assert folded.pending == 0
    assert not folded.active
    assert torch.equal(net(images()), copy.deepcopy(net)(images()))
    torch.testing.assert_close(expected, net(images()), rtol=1e-5, atol=1e-5)


class ByKeyword(Net):
    """Calls a layer by keyword."""

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.bn1(self.conv1(input=x))).mean((2, 3))


def test_layers_may_be_called_by_keyword():
    net = settle(ByKeyword())
    tapped = tap(net)
    folded = fold_norms(tapped, images())
    assert folded is not None
    assert folded.count == 2
    torch.testing.assert_close(tapped(images()).output, copy.deepcopy(net)(images()), rtol=1e-5, atol=1e-5)
    assert net.bn1(input=torch.ones(1, 6, 2, 2)).shape == (1, 6, 2, 2)
    assert net.body[2](input=-torch.ones(1)).item() == 0.0


class Inference(Net):
    """Answers in inference mode."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return super().forward(x)


def test_a_teacher_that_answers_in_inference_mode_distils():
    net = settle(Inference())
    assert fold_norms(tap(net), images()) is not None
    teacher = settle(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))
    plain = teacher.forward
    teacher.forward = torch.inference_mode()(plain)
    made = recipe({"use": "logits"}, teacher={"model": "support:TinyNet", "random": True})
    assert train(made, teacher=teacher, write=False).metrics["val"]


@pytest.mark.parametrize("where", ["a container", "an ancestor of the normalisation"])
def test_a_hook_around_the_layers_sees_what_it_always_saw(where: str):
    class Wrapped(Net):
        def __init__(self) -> None:
            super().__init__()
            self.around = nn.Sequential(self.conv1) if where == "a container" else nn.Sequential(self.conv1, self.bn1)
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.around(x)
            return self.body(self.relu(self.bn1(y) if where == "a container" else y)).mean((2, 3))

    net = settle(Wrapped())
    tapped = tap(net)
    assert fold_norms(tapped, images()) is not None
    seen: list[Tensor] = []
    net.around.register_forward_hook(lambda _m, _i, out: seen.append(out))
    tapped(images())
    expected = net.conv1(images()) if where == "a container" else net.bn1(net.conv1(images()))
    assert torch.equal(seen[0], expected)
    late = settle(Wrapped())
    late.around.register_forward_hook(lambda *_: None)
    assert fold_norms(tap(late), images()) is None


class Keeps(Net):
    """Keeps what its normalisation gives, for somebody to read."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.kept = nn.ReLU(), torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.bn1(self.conv1(x))
        return self.body(self.relu(self.kept)).mean((2, 3))


def test_a_map_that_a_module_keeps_is_not_written_over():
    net = settle(Keeps())
    tapped = tap(net)
    assert fold_norms(tapped, images()) is not None
    tapped(images())
    torch.testing.assert_close(net.kept, copy.deepcopy(net).bn1(net.conv1(images())), rtol=1e-5, atol=1e-5)
    assert float(net.kept.min()) < 0


@pytest.mark.parametrize("kept", [torch.eye(2).to_sparse(), torch.ones(2, device="meta")])
def test_attributes_that_cannot_be_compared_are_no_obstacle(kept: Tensor):
    net = settle(Keeps())
    net.mask = kept  # type: ignore[assignment]
    assert fold_norms(tap(net), images()) is not None


def test_statistics_that_move_in_a_train_mode_pass_are_folded_anew():
    net, tapped, folded = folded_net()
    net.train()
    net(images(seed=7))
    net.eval()
    torch.testing.assert_close(tapped(images()).output, copy.deepcopy(net)(images()), rtol=1e-5, atol=1e-5)
    folded.check_unchanged()
    assert "forward" in vars(net.conv1)


def test_statistics_that_nothing_counts_are_folded_anew_as_well():
    net, tapped, _ = folded_net()
    net.bn1.num_batches_tracked = net.body[1].num_batches_tracked = None
    net.train()
    tapped(images(seed=7))
    net.eval()
    torch.testing.assert_close(tapped(images()).output, copy.deepcopy(net)(images()), rtol=1e-5, atol=1e-5)


class Counts(Net):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def test_folding_anew_leaves_no_trace():
    net = settle(Counts())
    tapped = tap(net)
    assert fold_norms(tapped, images()) is not None
    tapped(images())
    with torch.no_grad():
        net.conv1.weight.mul_(1.5)
    tapped(images())
    assert float(net.calls) == 2


def test_a_forward_of_somebodys_own_is_left_where_it_is():
    net, tapped, _ = folded_net()
    own = net.conv1.forward
    net.conv1.forward = lambda x: own(x)
    tapped.taps.remove()
    assert "forward" in vars(net.conv1)
    assert "forward" not in vars(net.bn1)
    expected = settle(Net())
    expected.load_state_dict(net.state_dict())
    assert torch.equal(net(images()), expected(images()))


CONVNETS: dict[str, Any] = {
    "student": {"model": "stillhouse.models:convnet", "args": {"width": 4}},
    "teacher": {"model": "stillhouse.models:convnet", "args": {"width": 4}, "random": True},
}


def test_a_run_that_was_never_closed_changes_no_other_on_its_teacher(tmp_path: Any):
    made = recipe({"use": "logits"}, **CONVNETS)
    teacher = prepare(made, write=False).run.teacher
    whole = train(made, teacher=teacher, out=tmp_path / "whole").student.state_dict()
    interrupted(prepare(made, teacher=teacher, out=tmp_path / "part"), at=4)
    left = prepare(made, teacher=teacher, write=False)
    resumed = train(made, teacher=teacher, out=tmp_path / "part", resume=True).student.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    left.close()
    assert not any("forward" in vars(module) for module in teacher.modules())


def test_the_looks_are_outside_of_steps_and_once():
    training = prepare(recipe({"use": "logits"}, **CONVNETS), write=False)
    before = len(training.run.trainer._event_handlers[Events.ITERATION_COMPLETED])
    training.fit()
    assert len(training.run.trainer._event_handlers[Events.ITERATION_COMPLETED]) == before - 1
