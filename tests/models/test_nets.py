"""Our own networks: their stages, what they are made of, and that they learn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.data import DataInfo, DataSpec, load_data
from stillhouse.errors import StillhouseError
from stillhouse.models import ModelSpec, build_model
from stillhouse.models.nets.convolutional import convnet
from stillhouse.models.nets.dense import dense_vit, unet
from stillhouse.models.nets.perceptron import mlp
from stillhouse.models.nets.transformer import vit


def shapes(model: nn.Module, layers: list[str], x: Tensor) -> list[tuple[int, ...]]:
    seen: dict[str, Tensor] = {}
    for name in layers:
        model.get_submodule(name).register_forward_hook(lambda _m, _x, out, name=name: seen.__setitem__(name, out))
    model(x)
    return [tuple(seen[name].shape) for name in layers]


@pytest.mark.parametrize("size", [8, 9, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_convnet_stages(size: int, channels: int) -> None:
    half, quarter = -(-size // 2), -(-size // 4)
    assert shapes(
        convnet(5, channels, width=6, depth=2),
        ["stem", "stage1", "stage2", "stage3", "pool", "head"],
        torch.randn(2, channels, size, size),
    ) == [
        (2, 6, size, size),
        (2, 6, size, size),
        (2, 12, half, half),
        (2, 24, quarter, quarter),
        (2, 24),
        (2, 5),
    ]


def test_convnet_depth_counts_convolutions_of_a_stage() -> None:
    for depth in (1, 3):
        stage = convnet(5, depth=depth).stage2
        assert sum(isinstance(m, nn.Conv2d) for m in stage.modules()) == depth


@pytest.mark.parametrize(
    ("size", "patch", "tokens"), [(8, None, 16), (28, None, 49), (32, 8, 16), (64, None, 64), ((8, 16), 4, 8)]
)
def test_vit_tokens(size: Any, patch: int | None, tokens: int) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    model = vit(5, 1, size, patch, dim=12, depth=3, heads=2)
    layers = ["blocks.0", "blocks.2", "norm", "head"]
    n = 1 + tokens
    expected = [(2, n, 12), (2, n, 12), (2, n, 12), (2, 5)]
    assert shapes(model, layers, torch.randn(2, 1, height, width)) == expected


def test_vit_reads_the_class_token_and_sees_positions() -> None:
    model = vit(5, 1, 8, dim=16, depth=2, heads=4).eval()
    tokens: list[Tensor] = []
    model.norm.register_forward_hook(lambda _m, _x, out: tokens.append(out))
    x = torch.randn(3, 1, 8, 8)
    logits = model(x)
    torch.testing.assert_close(model.head(tokens[0][:, 0]), logits)
    assert not torch.allclose(model(x.flip(-1)), logits, atol=1e-6)


def test_vit_attention_is_softmax_attention() -> None:
    block: Any = vit(5, 1, 8, dim=8, depth=1, heads=2).blocks[0]
    x = torch.randn(2, 5, 8)
    q, k, v = block.qkv(block.norm1(x)).chunk(3, dim=-1)
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 2.0).softmax(-1)
        heads.append(weights @ v[..., part])
    middle = x + block.proj(torch.cat(heads, -1))
    torch.testing.assert_close(block(x), middle + block.mlp(block.norm2(middle)), atol=1e-5, rtol=1e-4)


def test_mlp_flattens() -> None:
    model = mlp(5, 3 * 4 * 4, width=9, depth=3)
    assert shapes(model, ["layers.0", "layers.2", "head"], torch.randn(2, 3, 4, 4)) == [(2, 9), (2, 9), (2, 5)]


@pytest.mark.parametrize(
    ("make", "where", "said"),
    [
        (lambda: convnet(0), "num_classes", "must be >= 1, got 0"),
        (lambda: convnet(5, width=0), "width", "must be >= 1, got 0"),
        (lambda: mlp(5, 4, depth=0), "depth", "must be >= 1, got 0"),
        (lambda: vit(5, 1, 8, patch=3), "patch", "must divide the image's height and width, 8x8, got 3"),
        (lambda: vit(5, 1, 8, dim=10, heads=4), "heads", "must divide dim = 10, got 4"),
        (lambda: convnet(5, norm="layer"), "norm", "must be one of batch, group, none, got 'layer'"),  # type: ignore[arg-type]
        (lambda: convnet(5, stages=0), "stages", "must be >= 1, got 0"),
        (lambda: unet(0), "num_classes", "must be >= 1, got 0"),
        (
            lambda: unet(1, residual=True),
            "residual",
            "needs an output of the input's 3 channels, got 1",
        ),
        (
            lambda: dense_vit(1, residual=True),
            "residual",
            "needs an output of the input's 3 channels, got 1",
        ),
        (lambda: dense_vit(5, dim=10, heads=4), "heads", "must divide dim = 10, got 4"),
    ],
)
def test_our_networks_refuse(make: Any, where: str, said: str) -> None:
    with pytest.raises(StillhouseError) as caught:
        make()
    assert (caught.value.faults[0].where, caught.value.faults[0].what) == (where, said)


@pytest.mark.parametrize("model", ["convnet", "vit", "mlp"])
def test_our_networks_learn_digits(model: str) -> None:
    data = load_data(DataSpec(name="sklearn:digits"), seed=0)
    spec = ModelSpec(model=f"stillhouse.models:{model}", args={"dim": 32, "depth": 2} if model == "vit" else {})
    net = build_model(spec, data.info, seed=0, where="student")
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3 if model == "vit" else 5e-3)
    for _, batch in zip(range(120), data.training(), strict=False):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(batch.input), batch.target))
        optimizer.step()
    net.eval()
    with torch.no_grad():
        hits = [net(b.input).argmax(1) == b.target for b in data.evaluation("test")]
    assert torch.cat(hits).float().mean() > (0.85 if model == "vit" else 0.93)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_normalisation_and_whether_samples_meet(norm: Any) -> None:
    model = unet(4, width=6, stages=3, norm=norm).train()
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)}
    assert kinds == {"batch": {nn.BatchNorm2d}, "group": {nn.GroupNorm}, "none": set()}[norm]
    x = torch.randn(3, 3, 16, 16)
    alone = torch.cat([model(x[:1]), model(x[1:])])
    assert torch.allclose(model(x), alone, atol=1e-5) == (norm != "batch")
    convolutions = [m for m in model.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert all((c.bias is not None) == (norm == "none") for c in convolutions)


def test_convnet_with_more_stages_and_a_stride() -> None:
    model = convnet(5, width=4, stages=5, stride=2)
    layers = ["stem", "stage1", "stage4", "stage5", "pool"]
    expected = [(2, 4, 33, 40), (2, 4, 33, 40), (2, 32, 5, 5), (2, 64, 3, 3), (2, 64)]
    assert shapes(model, layers, torch.randn(2, 3, 65, 80)) == expected


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (33, 50), (64, 64)])
def test_unet_stages(size: tuple[int, int], stride: int) -> None:
    layers = [f"encoder.stage{k}" for k in (1, 2, 3)] + ["decoder.stage2", "decoder.stage1", "head"]
    h, w = (-(-n // stride) for n in size)
    halves = [(h, w), (-(-h // 2), -(-w // 2))]
    halves.append((-(-halves[1][0] // 2), -(-halves[1][1] // 2)))
    model = unet(5, 2, width=4, depth=2, stages=3, stride=stride)
    x = torch.randn(2, 2, *size)
    assert shapes(model, layers, x) == [
        (2, 4, *halves[0]),
        (2, 8, *halves[1]),
        (2, 16, *halves[2]),
        (2, 8, *halves[1]),
        (2, 4, *halves[0]),
        (2, 5, *halves[0]),
    ]
    assert tuple(model(x).shape) == (2, 5, *size)


def test_unet_and_convnet_have_the_same_stages() -> None:
    classifier, dense = convnet(5, width=6, depth=2, stages=4, stride=2), unet(9, width=6, depth=2)
    stages = {k: v for k, v in classifier.state_dict().items() if not k.startswith("head")}
    assert stages.keys() == dense.encoder.state_dict().keys()
    dense.encoder.load_state_dict(stages)
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(dense.encoder.eval()(x), classifier.eval().maps(x)[-1])


def test_unet_by_hand() -> None:
    model: Any = unet(3, 1, width=4, stages=2, stride=2, norm="none")
    x = torch.randn(2, 1, 10, 12)
    relu = torch.relu
    encoder, up = model.encoder, model.decoder["stage1"]
    fine = relu(encoder.stage1[0][0](relu(encoder.stem[0](x))))
    coarse = relu(encoder.stage2[0][0](fine))
    coarse = F.interpolate(up.reduce(coarse), size=(5, 6), mode="bilinear")
    y = model.head(relu(up.mix[0](torch.cat([coarse, fine], 1))))
    torch.testing.assert_close(model(x), F.interpolate(y, size=(10, 12), mode="bilinear"))


@pytest.mark.parametrize(
    ("size", "patch", "grid"), [(64, 4, (16, 16)), ((90, 120), 8, (12, 15)), ((33, 21), 4, (9, 6)), (8, 4, (2, 2))]
)
def test_dense_vit_tokens_and_maps(size: Any, patch: int, grid: tuple[int, int]) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    model = dense_vit(5, 1, size, dim=12, depth=2, heads=2, width=8)
    assert (model.patch, model.grid) == (patch, grid)
    x = torch.randn(2, 1, height, width)
    n = grid[0] * grid[1]
    assert shapes(model, ["encoder.blocks.1", "encoder.norm", "decoder.0"], x) == [
        (2, n, 12),
        (2, n, 12),
        (2, 8, *grid),
    ]
    assert tuple(model(x).shape) == (2, 5, height, width)


def test_dense_vit_keeps_places() -> None:
    model = dense_vit(2, 1, 32, patch=8, dim=8, depth=1, heads=1).eval()
    with torch.no_grad():
        for block in model.encoder.blocks:  # without attention and positions a token sees its own patch alone
            block.proj.weight.zero_()
        model.encoder.position.zero_()
        x = torch.zeros(1, 1, 32, 32)
        x[0, 0, 24:, :8] = 1.0
        tokens = model.encoder(x)[0]
    changed = (tokens - tokens[0]).abs().sum(1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [12]  # row 3, column 0 of the 4x4 grid


@pytest.mark.parametrize("make", [unet, dense_vit])
def test_a_residual_starts_as_the_identity(make: Any) -> None:
    model, x = make(3, residual=True).eval(), torch.rand(2, 3, 64, 64)
    assert torch.equal(model(x), x)
    torch.autograd.backward(((model(x) - 1) ** 2).mean())
    assert float(model.head.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("make", [lambda: unet(2, 1, width=8, stages=3), lambda: dense_vit(2, 1, 24, dim=32, depth=2)])
def test_dense_networks_learn_where_something_is(make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def batch() -> tuple[Tensor, Tensor]:
        mask = torch.zeros(8, 24, 24, dtype=torch.int64)
        for k, (y, x) in enumerate(torch.randint(0, 14, (8, 2)).tolist()):
            mask[k, y : y + 9, x : x + 9] = 1
        return mask[:, None] + 0.3 * torch.randn(8, 1, 24, 24), mask

    for _ in range(60):
        x, mask = batch()
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x), mask))
        optimizer.step()
    x, mask = batch()
    with torch.no_grad():
        hits = (model.eval()(x).argmax(1) == mask).float().mean()
    assert hits > 0.93  # a sixth of the pixels is in the square


def test_map_networks_come_by_name() -> None:
    info = DataInfo(7, tuple("abcdefg"), (1, 30, 44), {}, "")
    for name, outputs in itertools.product(("unet", "dense_vit"), (7, 1)):
        spec = ModelSpec(model=f"stillhouse.models:{name}")
        model = build_model(spec, info, seed=0, where="student", outputs=outputs)
        assert tuple(model(torch.randn(2, 1, 30, 44)).shape) == (2, outputs, 30, 44)
