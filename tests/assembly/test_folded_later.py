"""What is written into, listened to or copied once a teacher's normalisations are folded; and folding in a run."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import recipe
from support.folding import Net, folded_net, images, settle
from torch import Tensor, nn

from stillhouse import Plugin, StillhouseError, Tap, hookimpl, plugin, prepare, train


@pytest.mark.parametrize("where", ["conv1", "bn1"])
def test_a_hook_that_comes_later_sees_what_the_layer_gives(where: str):
    net, tapped, _ = folded_net()
    seen: list[tuple[Tensor, Tensor]] = []
    handle = getattr(net, where).register_forward_hook(lambda _m, inputs, out: seen.append((inputs[0], out)))
    tapped(images())
    handle.remove()
    plain = settle(Net())
    plain.load_state_dict(net.state_dict())
    expected: list[tuple[Tensor, Tensor]] = []
    getattr(plain, where).register_forward_hook(lambda _m, inputs, out: expected.append((inputs[0], out)))
    plain(images())
    for found, wanted in zip(seen[0], expected[0], strict=True):
        assert torch.equal(found, wanted)


def test_a_global_hook_sees_what_each_layer_gives():
    net, tapped, _ = folded_net()
    seen: dict[nn.Module, Tensor] = {}
    handle = nn.modules.module.register_module_forward_hook(lambda m, _i, out: seen.update({m: out}))
    try:
        tapped(images())
    finally:
        handle.remove()
    assert torch.equal(seen[net.conv1], nn.Conv2d.forward(net.conv1, images()))


def test_train_mode_has_the_statistics_of_the_batch():
    net, tapped, _ = folded_net()
    net.bn1.train()
    before = net.bn1.running_mean.clone()
    expected = copy.deepcopy(net)(images())
    assert torch.equal(tapped(images()).output, expected)
    assert not torch.equal(net.bn1.running_mean, before)


@pytest.mark.parametrize("part", ["conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"])
def test_what_is_written_into_is_folded_again(part: str):
    net, tapped, folded = folded_net()
    with torch.no_grad():
        net.state_dict(keep_vars=True)[part].mul_(1.5)
    expected = copy.deepcopy(net)(images())
    torch.testing.assert_close(tapped(images()).output, expected, rtol=1e-5, atol=1e-5)
    folded.check_unchanged()
    assert "forward" in vars(net.conv1)


def test_a_teacher_that_moves_time_and_again_is_called_plainly():
    net, tapped, _ = folded_net()
    for _ in range(8):
        with torch.no_grad():
            net.conv1.weight.mul_(1.1)
        expected = copy.deepcopy(net)(images())
        torch.testing.assert_close(tapped(images()).output, expected, rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(net.conv1)
    assert torch.equal(tapped(images()).output, net(images()))


@pytest.mark.parametrize("way", ["data", "object"])
def test_what_is_written_behind_autograds_back_is_an_error_at_the_epochs_end(way: str):
    net, _, folded = folded_net()
    if way == "data":
        net.conv1.weight.data.mul_(1.5)
    else:
        net.conv1.weight = nn.Parameter(net.conv1.weight * 1.5, requires_grad=False)
    with pytest.raises(StillhouseError, match=r"teacher: the layer 'conv1' was changed") as caught:
        folded.check_unchanged()
    assert "speed.fold_norms = false" in str(caught.value)


def test_a_part_called_by_itself_computes_as_ever():
    net, tapped, _ = folded_net()
    expected = nn.BatchNorm2d.forward(net.bn1, nn.Conv2d.forward(net.conv1, images()))
    tapped(images())
    assert torch.equal(net.bn1(net.conv1(images())), expected)
    assert torch.equal(net.conv1(images()), nn.Conv2d.forward(net.conv1, images()))


def test_a_branch_that_skips_the_convolution_still_normalises():
    net, _, folded = folded_net()
    x = torch.randn(2, 6, 4, 4)
    folded.active = True  # as within a call
    assert torch.equal(net.bn1(x), nn.BatchNorm2d.forward(net.bn1, x))


@pytest.mark.parametrize("make", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_the_plain_model(make: Callable[[nn.Module], nn.Module]):
    net, tapped, folded = folded_net("body.0")
    folded.active = True  # a copy that is made within a call
    copied = make(net)
    folded.active = False
    assert torch.equal(copied(images()), net(images()))
    assert list(copied.state_dict()) == list(net.state_dict())
    with torch.no_grad():
        copied.conv1.weight.zero_()
    assert tapped(images()).output.abs().sum() > 0


def test_taken_off_with_the_taps():
    net, tapped, _ = folded_net()
    tapped.taps.remove()
    assert not any("forward" in vars(module) for module in net.modules())
    assert torch.equal(tapped(images()).output, net(images()))


# in a run


@plugin
class WritesThroughData(Plugin):
    """Moves its teacher as old code does."""

    requires = ("teacher",)
    begin: int = 0

    @hookimpl
    def add_taps(self, assembly: Any) -> list[Tap]:
        return [Tap("teacher", "")]

    @hookimpl
    def optimizer_stepped(self, step: Any) -> None:
        for parameter in step.composition.teacher.parameters() if step.iteration >= self.begin else ():
            parameter.data.mul_(0.9)


CONVNETS: dict[str, Any] = {
    "student": {"model": "stillhouse.models:convnet", "args": {"width": 4}},
    "teacher": {"model": "stillhouse.models:convnet", "args": {"width": 4}, "random": True},
}
STAGE3 = {"use": "features", "links": [{"student": "stage3", "teacher": "stage3"}]}


def notes_of(training: Any) -> list[str]:
    return [note for note in training.assembly.notes.get("model teacher", []) if "folded" in note]


def test_a_run_folds_its_teacher_and_says_so():
    training = prepare(recipe(STAGE3, **CONVNETS), write=False)
    teacher = training.run.teacher
    assert notes_of(training) == ["batch normalisations folded into the convolutions before them: 4"]
    assert "forward" in vars(teacher.stem[0])
    folded = training.fit()
    assert not any("forward" in vars(module) for module in teacher.modules())
    plain = prepare(recipe(STAGE3, speed={"fold_norms": False}, **CONVNETS), write=False)
    assert not notes_of(plain)
    assert not any("forward" in vars(module) for module in plain.run.teacher.modules())
    for name, value in plain.fit().student.state_dict().items():
        torch.testing.assert_close(folded.student.state_dict()[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"run__precision": "bfloat16"},
        {"speed": {"teacher_precision": "bfloat16"}},
        {"speed": {"compile": "teacher", "compile_args": {"backend": "eager"}}},
        {"speed": {"compile": "step", "compile_args": {"backend": "eager"}}},
    ],
)
def test_a_run_that_has_no_use_for_it_does_not(change: dict[str, Any]):
    training = prepare(recipe(STAGE3, **CONVNETS, **change), write=False)
    assert not notes_of(training)
    training.close()


def test_a_teacher_without_a_reader_is_left_alone():
    training = prepare(recipe({"use": "spectral", "layer": "stage3", "rank": 2}, **CONVNETS), write=False)
    assert not notes_of(training)
    training.close()


def test_a_plugin_that_writes_through_data_in_each_step_reads_what_it_wrote():
    found = []
    for fold in (True, False):
        made = recipe(STAGE3, **CONVNETS, speed__fold_norms=fold)
        found.append(train(made, plugins=[WritesThroughData()], write=False).student.state_dict())
    for name, wanted in found[1].items():
        torch.testing.assert_close(found[0][name], wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_a_plugin_that_begins_to_write_through_data_is_told():
    training = prepare(recipe(**CONVNETS), plugins=[WritesThroughData(begin=5)], write=False)
    with pytest.raises(StillhouseError, match=r"was changed without autograd's knowledge \(through \.data"):
        training.fit()


def test_so_is_one_whose_run_is_ended_within_an_epoch():
    training = prepare(recipe(**CONVNETS, data__args={"train": 200}), plugins=[WritesThroughData(begin=5)], write=False)
    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=7), training.run.trainer.terminate)
    with pytest.raises(StillhouseError, match=r"was changed without autograd's knowledge"):
        training.fit()


def test_several_teachers_are_folded_each():
    teachers = {"second": {**CONVNETS["teacher"], "args": {"width": 8}}}
    second = {"use": "features", "name": "more", "links": [{"student": "stage3", "teacher": "second:stage3"}]}
    pools = [{"use": "projector"}]
    training = prepare(recipe(STAGE3, second, *pools, teachers=teachers, **CONVNETS), write=False)
    assert notes_of(training)
    assert any("folded" in note for note in training.assembly.notes["model second"])
    training.close()
