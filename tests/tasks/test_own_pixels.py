"""Maps and places in an image's own pixels: class by class as all at once, depths in millimetres, boxes stretched."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support.task_support import info

from stillhouse.tasks.depth import Depth
from stillhouse.tasks.detection import Detection
from stillhouse.tasks.images import ImageToImage
from stillhouse.tasks.own_pixels import GivesMap, GivesPlaces, find_classes, to_millimetres
from stillhouse.tasks.segmentation import Segmentation

SIDES = st.integers(1, 17)


@given(st.integers(1, 5), st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.integers(0, 99))
def test_classes_one_by_one_are_the_argmax_of_all(
    classes: int, seen: tuple[int, int], size: tuple[int, int], seed: int
):
    logits = torch.randn(classes, *seen, generator=torch.Generator().manual_seed(seed))
    wanted = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
    found = find_classes(logits, size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted.numpy())


def test_more_classes_than_a_byte_has_take_two():
    logits = torch.zeros(300, 2, 2)
    logits[299, 0, 1] = logits[3, 1, 0] = 1
    found = find_classes(logits, (2, 2))
    assert (found.dtype, found.tolist()) == (np.uint16, [[0, 299], [3, 0]])


def test_millimetres_are_whole_and_limited_and_zero_is_no_number():
    metres = torch.tensor([1.2344, 1.2346, 1e-9, 65.5354, 80.0, torch.inf, torch.nan])
    found = to_millimetres(metres)
    assert (found.dtype, found.tolist()) == (np.uint16, [1234, 1235, 1, 65535, 65535, 65535, 0])


def test_depths_at_the_images_size_are_what_the_picture_shows():
    output = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    found = Depth().map_of(info(target="depth"), output, (7, 9))
    wanted = F.softplus(F.interpolate(output[None].double(), size=(7, 9), mode="bilinear", align_corners=False))[0, 0]
    assert np.abs(found.values / 1000 - wanted.numpy()).max() < 0.0006
    assert "millimetres" in found.about
    np.testing.assert_array_equal(Depth().map_of(info(target="depth"), output[0], (7, 9)).values, found.values)


def test_a_made_picture_is_as_it_was_made():
    output = torch.tensor([[[-0.2, 0.5, 1.2]]])
    grey = ImageToImage().map_of(info(target="image"), output, (50, 50))
    assert grey.values.tolist() == [[0, 128, 255]]
    colour = ImageToImage().map_of(info(target="image"), output.expand(3, 1, 3), (50, 50))
    assert colour.values.shape == (1, 3, 3)


def test_boxes_are_stretched_to_the_image():
    output = {"boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    task, data = Detection(), info(target="boxes")
    placed = task.place_in(output, (10, 20), (30, 10))
    assert task.prediction(data, placed)["objects"][0]["box"] == [0.5, 6.0, 1.5, 12.0]
    assert output["boxes"].tolist() == [[1.0, 2.0, 3.0, 4.0]]
    empty = {key: value[:0] for key, value in output.items()}
    assert task.place_in(empty, (10, 20), (30, 10))["boxes"].shape == (0, 4)


def test_a_task_has_them_by_its_methods():
    assert isinstance(Segmentation(), GivesMap)
    assert not isinstance(Segmentation(), GivesPlaces)
    assert isinstance(Detection(), GivesPlaces)
    assert not isinstance(Detection(), GivesMap)
