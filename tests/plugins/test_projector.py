"""The projector: orthogonality that lasts, maps against textbook formulas, layouts, refusals."""

# mypy: disable-error-code="no-untyped-call"
# torch's stubs leave Tensor.backward and TorchDispatchMode untyped.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FakeComposition, assembly_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse import Link, Step, StillhouseError, StillhouseWarning
from stillhouse_projector import Projector, Projectors, draw_haar, make_map, measure_orthogonality_error, retract
from stillhouse_projector.projectors import make_key, restore_name

torch.set_num_threads(1)

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
ORTHOGONAL_MAPS = ("retraction", "matrix_exp", "cayley")
SHAPES = {"vectors": (4, 6), "tokens": (4, 5, 6), "maps": (4, 6, 3, 2)}


def make_step(module: nn.Module, links: list[Link]) -> Step:
    composition: Any = FakeComposition([link.name for link in links], module)
    return Step(
        batch=None,
        ids=torch.arange(2),
        inputs=None,
        targets=None,
        iteration=0,
        epoch=0,
        composition=composition,
        links={link.name: link for link in links},
    )


def pair(d_s: int, d_t: int, name: str = "features/a", rows: int = 4) -> Link:
    return Link(name, torch.randn(rows, d_s), torch.randn(rows, d_t))


def built(plugin: Projector, *links: Link) -> Projectors:
    module = plugin.build(assembly_of(list(links)))
    assert isinstance(module, Projectors)
    return module


def weight_of(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


# --- orthogonality -------------------------------------------------------------------------------------------------


def train(module: nn.Module, d_in: int, d_out: int, *, lr: float, steps: int, weight_decay: float = 0.05) -> None:
    """AdamW with weight decay on the projection as well, on rows that another isometry and noise have mapped."""
    generator = torch.Generator().manual_seed(1)
    target = draw_haar(max(d_out, d_in), min(d_out, d_in))
    target = target if d_out >= d_in else target.mT
    plugin = Projector(map="retraction")
    step = make_step(Projectors({"a": module}, {"a": d_in}), [])
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        z = torch.randn(16, d_in, generator=generator)
        wanted = z @ target.mT + 0.3 * torch.randn(16, d_out, generator=generator)
        optimizer.zero_grad()
        (module(z) - wanted).square().mean().backward()
        optimizer.step()
        plugin.optimizer_stepped(step)


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_retraction_stays_orthogonal_through_5000_adamw_steps_with_weight_decay_on_it(lr: float) -> None:
    torch.manual_seed(0)
    module = make_map("orthogonal", 12, 20)
    train(module, 12, 20, lr=lr, steps=5000)
    assert measure_orthogonality_error(weight_of(module)) < 2e-7


@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley"])
@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_parametrised_maps_stay_orthogonal_with_weight_decay_on_them(orthogonal_map: Any, lr: float) -> None:
    torch.manual_seed(0)
    module = make_map("orthogonal", 8, 12, orthogonal_map=orthogonal_map)
    train(module, 8, 12, lr=lr, steps=400)
    assert measure_orthogonality_error(weight_of(module)) < 1e-5


@pytest.mark.parametrize(("d_in", "d_out"), [(5, 5), (5, 9), (9, 5), (1, 7), (7, 1)])
@pytest.mark.parametrize("orthogonal_map", ORTHOGONAL_MAPS)
def test_no_map_collapses_under_weight_decay(orthogonal_map: Any, d_in: int, d_out: int) -> None:
    """torch's default map (Householder) is exactly zero after one AdamW step with weight decay."""
    torch.manual_seed(0)
    module = make_map("orthogonal", d_in, d_out, orthogonal_map=orthogonal_map)
    start = weight_of(module).clone()
    train(module, d_in, d_out, lr=1e-2, steps=20, weight_decay=0.5)
    assert measure_orthogonality_error(weight_of(module)) < 1e-5
    if min(d_in, d_out) > 1:
        assert not torch.allclose(weight_of(module), start, atol=1e-3), "it does learn"
    student = torch.randn(8, d_in, requires_grad=True)
    (module(student) - torch.randn(8, d_out)).square().sum().backward()
    assert student.grad is not None
    assert student.grad.norm() > 0.1


def test_the_collapse_this_guards_against_is_real() -> None:
    linear: Any = nn.utils.parametrizations.orthogonal(nn.Linear(4, 6, bias=False))
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-3, weight_decay=0.05)
    (linear(torch.randn(8, 4)) - torch.randn(8, 6)).square().mean().backward()
    optimizer.step()
    assert linear.weight.abs().max() == 0, "torch has changed: the comment in maps.py is out of date"


def retraction_reference(weight: Tensor) -> Tensor:
    """QR with positive diagonal, by SciPy in float64."""
    w = weight.double().numpy()
    tall = w if w.shape[0] >= w.shape[1] else w.T
    q, r = scipy.linalg.qr(tall, mode="economic")
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return torch.from_numpy(q if w.shape[0] >= w.shape[1] else q.T)


@QUICK
@given(d_out=st.integers(1, 24), d_in=st.integers(1, 24), size=st.floats(1e-4, 10.0), seed=st.integers(0, 2**20))
def test_retraction_is_the_qr_retraction(d_out: int, d_in: int, size: float, seed: int) -> None:
    torch.manual_seed(seed)
    moved = draw_haar(d_out, d_in) + size * torch.randn(d_out, d_in)
    back = retract(moved)
    assert back.shape == moved.shape
    assert back.dtype == torch.float32
    assert measure_orthogonality_error(back) < 2e-7
    assert torch.allclose(back.double(), retraction_reference(moved), atol=2e-7)


@pytest.mark.parametrize(("d_out", "d_in"), [(400, 390), (192, 400), (193, 193)])
def test_retraction_of_weights_wider_than_a_block(d_out: int, d_in: int) -> None:
    torch.manual_seed(0)
    moved = nn.Parameter(draw_haar(d_out, d_in) + 1e-3 * torch.randn(d_out, d_in))
    back = retract(moved)
    assert not back.requires_grad
    assert torch.allclose(back.double(), retraction_reference(moved.detach()), atol=2e-7)


@pytest.mark.parametrize("condition", [1e2, 1e3, 1e4])
@pytest.mark.parametrize(("d_out", "d_in"), [(40, 24), (24, 24), (24, 40)])
def test_retraction_after_a_wild_step(condition: float, d_out: int, d_in: int) -> None:
    torch.manual_seed(0)
    k = min(d_out, d_in)
    spectrum = torch.logspace(0, -np.log10(condition), k) * 7.0
    wild = draw_haar(d_out, k) * spectrum @ draw_haar(k, d_in)
    assert measure_orthogonality_error(retract(wild)) < 2e-6


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (5, 5)])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1.0, 1e15])
def test_retraction_of_singular_weights_is_finite_and_mended_by_the_next(shape: tuple[int, int], size: float) -> None:
    lost = retract(size * torch.ones(shape))
    assert lost.isfinite().all()
    assert torch.linalg.svdvals(lost).max() < 1 + 1e-6
    torch.manual_seed(0)
    assert measure_orthogonality_error(retract(lost + 1e-2 * torch.randn(shape))) < 1e-6


def test_retraction_does_not_hide_a_broken_run() -> None:
    broken = draw_haar(6, 3)
    broken[2, 1] = torch.nan
    assert retract(broken).isnan().any()


def test_a_weight_on_the_manifold_is_a_fixed_point() -> None:
    torch.manual_seed(0)
    weight = draw_haar(20, 12)
    again = weight
    for _ in range(1000):
        again = retract(again)
    assert torch.allclose(again, weight, rtol=0, atol=3e-7)
    assert measure_orthogonality_error(again) < 2e-7


def test_an_unused_projection_keeps_its_weight() -> None:
    """No gradient (weight 0): the optimizer skips the parameter, the hook still runs."""
    link = pair(5, 8)
    plugin = Projector()
    module = built(plugin, link)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.05)
    for _ in range(10):
        optimizer.step()
        plugin.optimizer_stepped(make_step(module, [link]))
    for key, value in module.state_dict().items():
        assert torch.allclose(value, before[key], atol=1e-6)


def test_haar_is_seeded_and_uniform() -> None:
    torch.manual_seed(3)
    first = draw_haar(6, 4)
    torch.manual_seed(3)
    assert torch.equal(first, draw_haar(6, 4))
    draws = torch.stack([draw_haar(3, 2) for _ in range(4000)])
    assert torch.allclose(draws.mean(0), torch.zeros(3, 2), atol=0.04), "signs are free"
    assert torch.allclose(draws.square().mean(0), torch.full((3, 2), 1 / 3), atol=0.02), "no channel is preferred"


# --- the maps ------------------------------------------------------------------------------------------------------


@QUICK
@given(
    d_s=st.integers(1, 12), extra=st.integers(0, 12), seed=st.integers(0, 2**20), which=st.sampled_from(ORTHOGONAL_MAPS)
)
def test_inner_products_of_the_student_are_kept(d_s: int, extra: int, seed: int, which: Any) -> None:
    torch.manual_seed(seed)
    z = torch.randn(7, d_s)
    mapped = make_map("orthogonal", d_s, d_s + extra, orthogonal_map=which)(z)
    assert torch.allclose(mapped @ mapped.mT, z @ z.mT, atol=2e-5 * d_s)


@pytest.mark.parametrize(("d_in", "d_out"), [(3, 3), (3, 5), (5, 3)])
@pytest.mark.parametrize("which", ["matrix_exp", "cayley"])
def test_parametrised_maps_are_the_textbook_ones(which: Any, d_in: int, d_out: int) -> None:
    """P = first columns of Q exp(A), or of Q (I + A/2)(I - A/2)^{-1}, with A skew, here by SciPy in float64."""
    torch.manual_seed(0)
    module = make_map("orthogonal", d_in, d_out, orthogonal_map=which)
    state = module.state_dict()
    free, base = state["parametrizations.weight.original"], state["parametrizations.weight.0.base"].double().numpy()
    with torch.no_grad():
        free.copy_(torch.randn(free.shape))
    x = free.double().numpy()
    x = x if d_out >= d_in else x.T
    n, k = x.shape
    padded = np.zeros((n, n))
    padded[:, :k] = np.tril(x, -1)
    a = padded - padded.T
    eye = np.eye(n)
    full = scipy.linalg.expm(a) if which == "matrix_exp" else (eye + a / 2) @ np.linalg.inv(eye - a / 2)
    expected = base @ full[:, :k]
    expected = expected if d_out >= d_in else expected.T
    assert np.abs(weight_of(module).double().numpy() - expected).max() < 2e-6


@QUICK
@given(d_in=st.integers(1, 8), d_out=st.integers(1, 8), rows=st.integers(1, 9), seed=st.integers(0, 2**20))
def test_gradients_of_the_mean_squared_error(d_in: int, d_out: int, rows: int, seed: int) -> None:
    """L = ||Z W^T - T||^2 / n: dL/dZ = 2 (Z W^T - T) W / n and dL/dW = 2 (Z W^T - T)^T Z / n, in float64."""
    torch.manual_seed(seed)
    for kind in ("linear", "orthogonal"):
        module = Projectors({"a": make_map(kind, d_in, d_out)}, {"a": d_in})
        z, target = torch.randn(rows, d_in, requires_grad=True), torch.randn(rows, d_out)
        (module("a", z) - target).square().mean().backward()
        w = next(module.parameters())
        residual = 2 * (z.detach().double() @ w.detach().double().mT - target.double()) / target.numel()
        assert z.grad is not None
        assert w.grad is not None
        assert torch.allclose(z.grad.double(), residual @ w.detach().double(), atol=1e-6)
        assert torch.allclose(w.grad.double(), residual.mT @ z.detach().double(), atol=1e-5)


@pytest.mark.parametrize("which", ["matrix_exp", "cayley"])
@pytest.mark.parametrize(("d_in", "d_out"), [(3, 4), (3, 3), (4, 3)])
def test_gradients_of_the_parametrised_maps(which: Any, d_in: int, d_out: int) -> None:
    torch.manual_seed(0)
    module = make_map("orthogonal", d_in, d_out, orthogonal_map=which).double()
    free = module.state_dict()["parametrizations.weight.original"].clone() + 0.3 * torch.randn(d_out, d_in).double()
    z = torch.randn(4, d_in, dtype=torch.float64, requires_grad=True)

    def mapped(z: Tensor, free: Tensor) -> Tensor:
        result = torch.func.functional_call(module, {"parametrizations.weight.original": free}, (z,))
        assert isinstance(result, Tensor)
        return result

    assert torch.autograd.gradcheck(mapped, (z, free.requires_grad_()))


def test_mlp_is_two_linear_layers_with_relu() -> None:
    torch.manual_seed(0)
    module = make_map("mlp", 4, 3, hidden=7)
    w1, b1, w2, b2 = (p.detach().double() for p in module.parameters())
    assert w1.shape == (7, 4)
    z = torch.randn(5, 4)
    expected = (z.double() @ w1.mT + b1).clamp_min(0) @ w2.mT + b2
    assert torch.allclose(module(z).double(), expected, atol=1e-6)
    assert next(make_map("mlp", 4, 9).parameters()).shape == (9, 4), "the larger width when left open"


def test_linear_and_orthogonal_maps_have_no_bias() -> None:
    for kind in ("linear", "orthogonal"):
        assert torch.equal(make_map(kind, 4, 6)(torch.zeros(2, 4)), torch.zeros(2, 6))


# --- layouts and precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "mlp", "orthogonal"])
def test_layouts_agree(kind: Any) -> None:
    torch.manual_seed(0)
    project = Projectors({"a": make_map(kind, 6, 8)}, {"a": 6})
    maps = torch.randn(4, 6, 3, 2)
    tokens = maps.flatten(2).mT
    mapped = project("a", maps)
    assert mapped.shape == (4, 8, 3, 2)
    assert torch.allclose(mapped.flatten(2).mT, project("a", tokens), atol=1e-6)
    assert torch.allclose(project("a", tokens)[:, 4], project("a", tokens[:, 4]), atol=1e-6)
    if kind != "mlp":
        convolved = nn.functional.conv2d(maps, weight_of(project.maps[make_key("a")])[:, :, None, None])
        assert torch.allclose(mapped, convolved, atol=1e-6), "the 1x1 convolution"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("which", ORTHOGONAL_MAPS)
def test_float32_under_autocast(shape: tuple[int, ...], which: Any) -> None:
    torch.manual_seed(0)
    project = Projectors({"a": make_map("orthogonal", 6, 8, orthogonal_map=which)}, {"a": 6})
    x = torch.randn(shape).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = project("a", x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, project("a", x.float()))


# --- the plugin ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_transform_rewrites_one_side_and_both_networks_can_learn(side: Any) -> None:
    torch.manual_seed(0)
    plugin = Projector(kind="linear", side=side)
    link = pair(5, 8)
    module = built(plugin, link)
    link = pair(5, 8)
    student, teacher = link.student.requires_grad_(), link.teacher
    plugin.transform(make_step(module, [link]))
    width = 8 if side == "student" else 5
    assert link.student.shape == link.teacher.shape == (4, width)
    kept = link.teacher is teacher if side == "student" else link.student is student
    assert kept, "the other side is untouched"
    (link.student - link.teacher).square().mean().backward()
    assert student.grad is not None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_links_are_chosen_by_glob() -> None:
    links = [pair(5, 8, "features/a"), pair(5, 8, "features/b")]
    plugin = Projector(links="features/b")
    module = built(plugin, *links)
    assert [restore_name(k) for k in module.maps] == ["features/b"]
    plugin.transform(make_step(module, links))
    assert links[0].student.shape == (4, 5)
    assert links[1].student.shape == (4, 8)


@pytest.mark.parametrize("d_s", [8, 3])
def test_orthogonal_projection_of_the_teacher(d_s: int) -> None:
    """Upwards an isometry. Downwards Z_t P with P^T P = I, whose inner products with Z_s are those of VkD's loss."""
    torch.manual_seed(0)
    plugin = Projector(side="teacher")
    link = pair(d_s, 5)
    module = built(plugin, link)
    z_s, z_t = link.student.double(), link.teacher.double()
    plugin.transform(make_step(module, [link]))
    weight = weight_of(module.maps[make_key(link.name)])
    assert weight.shape == (d_s, 5)
    assert measure_orthogonality_error(weight) < 1e-6
    mapped = link.teacher.detach().double()
    if d_s >= 5:
        assert torch.allclose(mapped @ mapped.mT, z_t @ z_t.mT, atol=1e-5)
        return
    p = weight.double().mT
    assert torch.allclose(p.mT @ p, torch.eye(d_s).double(), atol=1e-6)
    inverted, vkd = (mapped - z_s).square().sum(), (z_s @ p.mT - z_t).square().sum()
    outside = (z_t - z_t @ p @ p.mT).square().sum()
    assert torch.allclose(inverted, vkd - outside, atol=1e-4)


def test_going_down_is_refused_for_every_link_at_once() -> None:
    links = [pair(8, 5, "features/a"), pair(5, 5, "features/b"), pair(9, 4, "features/c")]
    with pytest.raises(StillhouseError) as caught:
        Projector().build(assembly_of(links))
    text = str(caught.value)
    assert len(caught.value.faults) == 2
    for part in ("features/a", "features/c", "teacher's 5 channels, got 8", "teacher's 4 channels, got 9"):
        assert part in text
    for advice in ('side = "teacher"', 'kind = "linear"', "teacher layer"):
        assert advice in text
    built(Projector(kind="linear"), *links)
    built(Projector(side="teacher"), *links)


def test_bad_input_is_named() -> None:
    with pytest.raises(StillhouseError, match="hidden: must be >= 1, got 0"):
        Projector(kind="mlp", hidden=0)
    with pytest.raises(StillhouseError, match=r"must be one of .*, got 'orthogonl'"):
        Projector(kind="orthogonl")  # type: ignore[arg-type]
    with pytest.warns(StillhouseWarning, match="hidden = 4 has no effect"):
        Projector(hidden=4)
    with pytest.warns(StillhouseWarning, match="map = 'cayley' has no effect"):
        Projector(kind="linear", map="cayley")
    with pytest.raises(StillhouseError, match="'nothing' matches no link"):
        Projector(links="nothing").build(assembly_of([pair(5, 8)]))
    with pytest.raises(StillhouseError, match=r"'features/a'.*must be vectors"):
        Projector().build(assembly_of([Link("features/a", torch.randn(4), torch.randn(4, 2))]))
    with pytest.raises(StillhouseError, match="got 3 dimensions"):
        retract(torch.zeros(2, 3, 4))
    with pytest.raises(StillhouseError, match="got 0 and 3"):
        draw_haar(3, 0)
    project = built(Projector(), pair(5, 8))
    with pytest.raises(StillhouseError, match=r"'features/z'.*has no projection"):
        project("features/z", torch.randn(2, 5))
    with pytest.raises(StillhouseError, match=r"the projection's 5 channels, got shape \(2, 6\)"):
        project("features/a", torch.randn(2, 6))


@QUICK
@given(st.lists(st.text(alphabet="a.%/2E5:k", max_size=8), unique=True, min_size=1))
def test_link_names_become_distinct_module_keys(names: list[str]) -> None:
    project = Projectors({name: nn.Linear(2, 2) for name in names}, dict.fromkeys(names, 2))
    assert len(project.maps) == len(names)
    assert [restore_name(key) for key in project.maps] == names


def test_awkward_names_work_as_keys() -> None:
    links = [pair(3, 4, name) for name in ("features/stage3.conv", "keys", "features/stage3%2Econv", "training")]
    project = built(Projector(), *links)
    assert set(project.measure_orthogonality_errors()) == {link.name for link in links}
    assert project("keys", torch.randn(2, 3)).shape == (2, 4)


def test_options_of_the_optimizer_and_scalars() -> None:
    link = pair(5, 8)
    plugin = Projector()
    assert plugin.optimizer_options(assembly_of([link])) == {"weight_decay": 0.0}
    module = built(plugin, link)
    found = plugin.scalars(make_step(module, [link]))
    assert list(found) == ["orthogonality_error/features/a"]
    assert found["orthogonality_error/features/a"].ndim == 0
    assert found["orthogonality_error/features/a"] < 1e-6
    with torch.no_grad():
        next(module.parameters()).mul_(1.1)
    assert abs(plugin.scalars(make_step(module, [link]))["orthogonality_error/features/a"] - 0.21) < 1e-5
    linear = Projector(kind="linear")
    assert linear.scalars(make_step(built(linear, link), [link])) == {}


class NoHostRead(TorchDispatchMode):
    """Fails where a tensor's value is read back."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "local_scalar_dense" not in str(func), "a tensor's value was read back in the step"
        return func(*args, **(kwargs or {}))


def test_nothing_in_the_step_reads_a_value_back() -> None:
    link = pair(5, 8)
    plugin = Projector()
    module = built(plugin, link)
    step = make_step(module, [link])
    with NoHostRead():
        plugin.transform(step)
        plugin.optimizer_stepped(step)
        plugin.scalars(step)


@pytest.mark.parametrize("which", ORTHOGONAL_MAPS)
def test_state_is_all_in_the_module(which: Any) -> None:
    torch.manual_seed(0)
    link = pair(5, 8)
    first, second = built(Projector(map=which), link), built(Projector(map=which), link)
    x = torch.randn(3, 5)
    assert not torch.equal(first(link.name, x), second(link.name, x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(link.name, x), second(link.name, x))
