"""A teacher gets its inputs as it was trained on them, whatever the student's data is scaled by."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import nn

from stillhouse.config.structure import structure
from stillhouse.config.teacher import TeacherSpec
from stillhouse.data import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.teachers.inputs import fit_inputs
from stillhouse.teachers.origins import Origin


def info(channels: int, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> DataInfo:
    return DataInfo(
        classes=2,
        class_names=("a", "b"),
        input_shape=(channels, 4, 4),
        sizes={"train": 2},
        fingerprint="",
        mean=mean,
        std=std,
    )


def normalised(x: torch.Tensor, of: DataInfo) -> torch.Tensor:
    if not of.mean:
        return x
    return (x - torch.tensor(of.mean)[:, None, None]) / torch.tensor(of.std)[:, None, None]


OWN = info(3, (0.4, 0.5, 0.3), (0.2, 0.3, 0.25))
OTHER = info(3, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


@pytest.mark.parametrize(("own", "students"), [(OWN, OTHER), (OWN, info(3)), (info(3), OTHER)])
def test_the_students_scale_is_undone_and_the_teachers_put_in_its_place(own, students):
    images = torch.rand(5, 3, 4, 4)
    teacher = nn.Sequential(nn.Identity())
    fit_inputs(teacher, own, students)
    torch.testing.assert_close(teacher(normalised(images, students)), normalised(images, own))


@pytest.mark.parametrize(("channels", "count"), [(1, 3), (3, 2)])
def test_a_scale_of_other_channels_is_refused(channels: int, count: int):
    own = info(channels, (0.5,) * count, (0.2,) * count)
    with pytest.raises(StillhouseError, match=rf"teacher.normalize: has {count} numbers.*{channels} channels"):
        fit_inputs(nn.Identity(), own, info(channels))


def test_one_number_is_that_of_all_channels():
    images = torch.rand(5, 3, 4, 4)
    teacher = nn.Sequential(nn.Identity())
    fit_inputs(teacher, info(3, (0.5,), (0.25,)), info(3))
    torch.testing.assert_close(teacher(images), (images - 0.5) / 0.25)


def test_the_scale_of_imagenet_is_averaged_for_grey():
    spec = structure({"model": "-", "random": True, "normalize": "imagenet"}, TeacherSpec, "teacher")
    own = Origin.corrected(Origin(info(1), None, None, ""), spec, info(1), ("a", "b")).info
    assert own.mean == pytest.approx((0.449,), abs=1e-3)
    assert own.std == pytest.approx((0.226,), abs=1e-3)


def test_grey_becomes_colour_and_colour_grey():
    grey = info(1, (0.45,), (0.2,))
    images = torch.rand(5, 1, 4, 4)
    teacher = nn.Sequential(nn.Identity())
    fit_inputs(teacher, OWN, grey)
    torch.testing.assert_close(teacher(normalised(images, grey)), normalised(images.expand(-1, 3, -1, -1), OWN))
    coloured = torch.rand(5, 3, 4, 4)
    teacher = nn.Sequential(nn.Identity())
    fit_inputs(teacher, grey, OWN)
    brightness = (coloured * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(teacher(normalised(coloured, OWN)), normalised(brightness, grey))


def test_nothing_is_attached_where_nothing_differs_and_nothing_is_saved():
    teacher = nn.Sequential(nn.Identity())
    fit_inputs(teacher, OWN, attrs.evolve(OWN, fingerprint="other"))
    assert not teacher._forward_pre_hooks
    fit_inputs(teacher, OWN, OTHER)
    assert teacher._forward_pre_hooks
    assert not teacher.state_dict()


def test_other_channels_are_refused():
    with pytest.raises(StillhouseError, match="the teacher was trained on 3 channels, and the student's inputs have 4"):
        fit_inputs(nn.Identity(), OWN, info(4))


@pytest.mark.parametrize("own", [OWN, info(1, (0.45,), (0.2,))])
def test_autocast_does_not_round_what_is_converted(own):
    teacher = nn.Sequential(nn.Identity())
    fit_inputs(teacher, own, attrs.evolve(OTHER, input_shape=(3, 8, 8)))
    images = torch.rand(2, 3, 8, 8)
    exact = teacher(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(teacher(images), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 9, 5), (3, 2, 2), (3, 4, 4), (3, 3, 8)])
def test_images_are_resized_as_torch_resizes_them(shape):
    teacher = nn.Sequential(nn.Identity())
    fit_inputs(teacher, attrs.evolve(OWN, input_shape=shape), OWN)
    images = torch.rand(2, 3, 4, 4)
    smaller = shape[1] < 4 or shape[2] < 4
    wanted = torch.nn.functional.interpolate(images, shape[1:], mode="bilinear", antialias=smaller)
    torch.testing.assert_close(teacher(images), wanted if shape != (3, 4, 4) else images)
    assert bool(teacher._forward_pre_hooks) == (shape != (3, 4, 4))


def test_a_size_that_augmentation_alone_changes_is_the_same_size():
    """What was trained on crops and measured on whole images has the whole ones' size."""
    cropped = attrs.evolve(OWN, input_shape=(3, 2, 2), eval_shape=(3, 4, 4))
    teacher = nn.Sequential(nn.Identity())
    assert fit_inputs(teacher, cropped, attrs.evolve(OWN, eval_shape=(3, 4, 4))) == []
    assert fit_inputs(teacher, cropped, cropped) == []
    assert fit_inputs(teacher, OWN, cropped) == ["resized to 4x4"]


def test_detectors_resize_by_themselves():
    boxes = attrs.evolve(OWN, target="boxes")
    assert fit_inputs(nn.Identity(), attrs.evolve(boxes, input_shape=(3, 8, 8)), boxes) == []
