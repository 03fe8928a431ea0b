"""Teachers with their batch normalisations folded into convolutions: the same answers, and plain ones wherever that could fail."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import same_state
from support.folding import Net, images, settle, tap
from torch import Tensor, nn

from stillhouse.assembly.folded_norms import fold_norms

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def calls_of(module: nn.Module, call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a class's own forward is called."""
    count = [0]
    own = type(module).forward

    def counting(self: nn.Module, *arguments: Any) -> Any:
        count[0] += self is module
        return own(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(module), "forward", counting)
        call()
    return count[0]


# the numbers


@settings(max_examples=40, deadline=None)
@given(
    dims=st.integers(1, 3),
    bias=st.booleans(),
    affine=st.booleans(),
    groups=st.sampled_from([1, 2]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_answers_and_gradients_are_those_of_the_formula(
    dims: int, bias: bool, affine: bool, groups: int, stride: int, dilation: int, seed: int
):
    torch.manual_seed(seed)
    conv = CONVS[dims](4, 6, 3, padding=1, bias=bias, groups=groups, stride=stride, dilation=dilation)
    norm = NORMS[dims](6, affine=affine, eps=1e-3)
    model = settle(nn.Sequential(conv, norm), seed)
    tapped = tap(model)
    x = torch.randn(2, 4, *[7] * dims)
    assert fold_norms(tapped, x) is not None

    # The textbook's formula, in float64: (y - m) / sqrt(v + eps) * g + b.
    wide = x.double().requires_grad_()
    y = copy.deepcopy(conv).double()(wide)
    shape = (1, 6, *[1] * dims)
    expected = (y - norm.running_mean.reshape(shape)) / (norm.running_var.double().reshape(shape) + 1e-3).sqrt()
    if affine:
        expected = expected * norm.weight.reshape(shape) + norm.bias.reshape(shape)
    factor = torch.randn(expected.shape)
    (expected * factor).sum().backward()

    narrow = x.clone().requires_grad_()
    found = tapped.call(model, narrow, None)  # with gradient, as a live teacher's part is called
    (found * factor).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=1e-4, atol=1e-4)


def test_one_pass_less_and_what_the_taps_read_is_the_same(monkeypatch: pytest.MonkeyPatch):
    net = settle(Net())
    before = copy.deepcopy(net.state_dict())
    expected = tap(copy.deepcopy(net), "body.0", "body.2")(images(5, seed=7))
    tapped = tap(net, "body.0", "body.2")
    folded = fold_norms(tapped, images())
    assert folded is not None
    assert folded.count == 1  # a tapped convolution gives what it always gave
    found = tapped(images(5, seed=7))
    torch.testing.assert_close(found.output, expected.output, rtol=1e-5, atol=1e-5)
    for layer in ("body.0", "body.2"):
        torch.testing.assert_close(found.features[layer], expected.features[layer], rtol=1e-5, atol=1e-5)
    assert calls_of(net.bn1, lambda: tapped(images()), monkeypatch) == 0
    assert calls_of(net.body[1], lambda: tapped(images()), monkeypatch) == 1
    assert same_state(before, net.state_dict())


# where nothing is folded


def test_what_would_change_answers_is_not_folded():
    twice = Net()
    twice.forward = lambda x: Net.forward(twice, x) + Net.forward(twice, x)  # each layer is called two times
    both = Net()
    both.bn1.forward = lambda x: nn.BatchNorm2d.forward(both.bn1, x) + x  # somebody's own forward
    used = Net(between=lambda y: y)
    used.register_forward_hook(lambda *_: None)  # a hook of the whole model sees what it always saw: no matter
    for net, count in ((twice, 0), (both, 1), (used, 2)):
        folded = fold_norms(tap(settle(net)), images())
        assert (folded.count if folded else 0) == count


class TwoReaders(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        return self.body(self.bn1(y) + y).mean((2, 3))


class InPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.bn1(torch.relu_(self.conv1(x)))).mean((2, 3))


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x))


class Elsewhere(Net):
    """Its answer is nothing that tensors could be found in."""

    def forward(self, x: Tensor) -> Any:
        return "some text"


class NoisyCount(Net):
    """Whole numbers in its answer that no second call repeats."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), torch.randint(1 << 40, (2,))


@pytest.mark.parametrize("kind", [TwoReaders, Noisy, NoisyCount, Elsewhere])
def test_answers_that_would_differ_or_cannot_be_compared_stay_plain(kind: type[Net]):
    torch.manual_seed(0)
    net = settle(kind())
    tapped = tap(net)
    state = torch.get_rng_state()
    if kind in (Elsewhere, NoisyCount):
        tapped.output = lambda inputs: Net.forward(net, inputs)  # type: ignore[method-assign]  # else it is refused before
    assert fold_norms(tapped, images()) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert not any("forward" in vars(module) for module in net.modules())


class Shared(Net):
    """One of its first two layers is called once more, at another size."""

    def __init__(self, which: str) -> None:
        super().__init__()
        self.which, self.norm = which, nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        if self.which == "convolution":
            more = self.norm(self.conv1(x[..., ::2, ::2]))
        else:
            more = self.bn1(torch.nn.functional.conv2d(x[..., ::2, ::2], self.conv1.weight))
        return found + more.mean((2, 3))[:, :5]


@pytest.mark.parametrize("which", ["convolution", "normalisation"])
def test_a_layer_that_is_called_twice_is_left_alone_and_the_others_are_folded(which: str):
    folded = fold_norms(tap(settle(Shared(which))), images())
    assert folded is not None
    assert folded.count == 1


def test_what_is_written_in_place_between_is_seen():
    net = settle(InPlace())
    folded = fold_norms(tap(net), images())
    assert folded is not None
    assert folded.count == 1  # of the two, that of the body


@pytest.mark.parametrize("change", ["train mode", "no statistics", "reflection", "float64", "hook", "pre-hook"])
def test_a_pair_that_does_not_fit_is_left_alone(change: str):
    net = settle(Net())
    if change == "train mode":
        net.bn1.train()
    elif change == "no statistics":
        net.bn1 = nn.BatchNorm2d(6, track_running_stats=False).eval()
    elif change == "reflection":
        net.conv1.padding_mode = "reflect"
        net.conv1._reversed_padding_repeated_twice = [1, 1, 1, 1]
    elif change == "float64":
        net.double()
    elif change == "hook":
        net.conv1.register_forward_hook(lambda *_: None)
    else:
        net.bn1.register_forward_pre_hook(lambda *_: None)
    inputs = images().to(net.conv1.weight.dtype)
    folded = fold_norms(tap(net), inputs)
    assert (folded.count if folded else 0) == (0 if change in ("float64", "hook", "pre-hook") else 1)


def test_half_precision_is_left_alone():
    assert fold_norms(tap(settle(Net()), precision=torch.bfloat16), images()) is None


class Counts(Net):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def test_the_looks_before_the_run_leave_no_trace(monkeypatch: pytest.MonkeyPatch):
    net = settle(Counts())
    before = copy.deepcopy(net.state_dict())
    tapped = tap(net)
    folded = fold_norms(tapped, images())
    assert folded is not None
    assert same_state(before, net.state_dict())
    assert calls_of(net.bn1, lambda: tapped(images()), monkeypatch) == 0
    assert net.calls == 1  # nor has the first call to look anew: nothing was written into


class Block(Net):
    """Its normalisations are followed by ReLUs that are modules; ``reader`` reads the first one's output as well."""

    def __init__(self, reader: str) -> None:
        super().__init__()
        self.relu, self.reader = nn.ReLU(), reader

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x))
        z = self.relu(y)
        if self.reader == "after":
            z = z + y
        elif self.reader == "twice":
            z = z + self.relu(-z)
        return self.body(z).mean((2, 3))


@pytest.mark.parametrize(("reader", "written_over"), [("nobody", [1, 1]), ("after", [0, 0]), ("twice", [0, 1])])
def test_a_relu_writes_over_what_it_alone_reads(
    reader: str, written_over: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = settle(Block(reader))
    x = images(5, seed=7)
    expected = copy.deepcopy(net)(x)
    tapped = tap(net)
    folded = fold_norms(tapped, images())
    assert folded is not None
    assert folded.count == 2
    written: list[int] = []
    own = torch.relu_
    with monkeypatch.context() as patch:
        patch.setattr(torch, "relu_", lambda y: (written.append(y.shape[1]), own(y))[1])
        torch.testing.assert_close(tapped(x).output, expected, rtol=1e-5, atol=1e-5)
    assert [written.count(6), written.count(5)] == written_over


@pytest.mark.parametrize("make", [Net, lambda: Block("nobody"), lambda: Block("after")])
def test_no_map_stays_in_memory_after_a_call(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    tapped = tap(settle(make()))
    assert fold_norms(tapped, images()) is not None
    maps: list[weakref.ref[Tensor]] = []
    own = torch.nn.functional.conv2d
    pairs = tapped.call._pairs
    for pair in pairs:
        monkeypatch.setattr(pair, "_convolve", lambda *given: (maps.append(weakref.ref(y := own(*given))), y)[1])
    output = tapped(images()).output
    assert output is not None
    assert len(maps) == 2
    assert [ref() for ref in maps] == [None, None]


def test_a_relu_that_is_tapped_or_listened_to_gives_what_it_always_gave() -> None:
    net = settle(Block("nobody"))
    expected = tap(copy.deepcopy(net), "relu")(images())
    tapped = tap(net, "relu")
    assert fold_norms(tapped, images()) is not None
    torch.testing.assert_close(tapped(images()).features["relu"], expected.features["relu"], rtol=1e-5, atol=1e-5)
    seen: list[Tensor] = []
    net.body[2].register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0]))
    tapped(images())
    assert (seen[0] < 0).any()  # not yet written over
