"""Segmentation: loss and gradient against a loop over the pixels, metrics against scikit-learn, what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score
from support.task_support import cut, info, measured

from stillhouse import StillhouseError
from stillhouse.config.structure import structure
from stillhouse.tasks.segmentation import Segmentation


def reference(logits: torch.Tensor, mask: torch.Tensor, ignore: int, smoothing: float) -> torch.Tensor:
    """Cross-entropy by its definition over the pixels chosen with a boolean index, float64."""
    classes = logits.shape[1]
    rows = logits.permute(0, 2, 3, 1).reshape(-1, classes)
    labels = mask.reshape(-1)
    kept = (labels != ignore) & (labels < classes)
    rows, labels = rows[kept], labels[kept]
    logp = rows - rows.exp().sum(1, keepdim=True).log()
    aim = torch.full_like(rows, smoothing / classes)
    aim[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(aim * logp).sum() / max(1, len(labels))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999),
    b=st.integers(1, 3),
    c=st.integers(2, 5),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    smoothing=st.sampled_from([0.0, 0.1]),
    ignore=st.sampled_from([255, 0]),
)
def test_loss_and_gradient_are_those_of_the_pixels_that_count(seed, b, c, h, w, share, smoothing, ignore):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, c, h, w, generator=generator, dtype=torch.float64)
    mask = torch.randint(0, c, (b, h, w), generator=generator)
    mask[torch.rand(b, h, w, generator=generator) < share] = ignore
    task = Segmentation(ignore_index=ignore, label_smoothing=smoothing)
    ours, theirs = logits.float().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = task.loss(ours, mask), reference(theirs, mask, ignore, smoothing)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-7)
    assert int(task.count(mask)) == int((mask != ignore).sum())


def test_a_batch_without_a_labelled_pixel_has_a_loss_of_0_and_a_gradient_of_0():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    task = Segmentation()
    loss = task.loss(logits, torch.full((2, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0.0
    assert int(task.count(torch.full((2, 4, 4), 255))) == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_parts_of_a_batch_averaged_by_their_counts_are_the_batch():
    torch.manual_seed(0)
    logits, mask = torch.randn(5, 3, 6, 6), torch.randint(0, 3, (5, 6, 6))
    mask[0] = 255
    mask[3, :4] = 255
    task = Segmentation()
    parts = [(float(task.loss(x, m)), int(task.count(m))) for x, m in cut([1, 3, 1], logits, mask)]
    mean = sum(loss * n for loss, n in parts) / sum(n for _, n in parts)
    assert mean == pytest.approx(float(task.loss(logits, mask)), rel=1e-6)


def test_logits_of_another_size_are_interpolated_bilinearly():
    torch.manual_seed(0)
    small, mask = torch.randn(2, 3, 3, 4), torch.randint(0, 3, (2, 12, 16))
    # Bilinear without aligned corners: the sample positions of each output pixel, by hand.
    y = (np.arange(12) + 0.5) * 3 / 12 - 0.5
    x = (np.arange(16) + 0.5) * 4 / 16 - 0.5
    y0, x0 = np.clip(np.floor(y), 0, None).astype(int), np.clip(np.floor(x), 0, None).astype(int)
    fy, fx = np.clip(y, 0, None) - y0, np.clip(x, 0, None) - x0
    y1, x1 = np.minimum(y0 + 1, 2), np.minimum(x0 + 1, 3)
    a = small.double().numpy()
    rows = a[:, :, y0] * (1 - fy)[:, None] + a[:, :, y1] * fy[:, None]
    large = torch.from_numpy(rows[..., x0] * (1 - fx) + rows[..., x1] * fx)
    task = Segmentation()
    assert float(task.loss(small, mask)) == pytest.approx(float(reference(large, mask, 255, 0.0)), rel=1e-5)
    found = measured(task, info(), (small, mask))["accuracy"]
    assert found == pytest.approx((large.argmax(1) == mask).double().mean().item())


def test_metrics_are_scikit_learns_over_all_pixels_that_count():
    torch.manual_seed(1)
    logits, mask = torch.randn(7, 4, 5, 6), torch.randint(0, 3, (7, 5, 6))  # nobody has the class d, some predict it
    mask[torch.rand(7, 5, 6) < 0.3] = 255
    task, data = Segmentation(), info(4)
    found = measured(task, data, *cut([3, 3, 1], logits, mask))
    kept = (mask != 255).numpy()
    truth, predicted = mask.numpy()[kept], logits.argmax(1).numpy()[kept]
    by_class = jaccard_score(truth, predicted, labels=range(4), average=None)
    assert found["iou"].numpy() == pytest.approx(by_class)
    assert found["miou"] == pytest.approx(by_class.mean())
    assert found["accuracy"] == pytest.approx((truth == predicted).mean())
    recall = [(predicted[truth == k] == k).mean() for k in range(3)]
    assert found["class_accuracy"] == pytest.approx(np.mean(recall))
    assert found["loss"] == pytest.approx(float(reference(logits.double(), mask, 255, 0.0)), rel=1e-5)


def test_a_class_that_nobody_has_is_left_out_of_the_mean():
    mask = torch.tensor([[[0, 0, 1, 1]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 1]]]), 3).permute(0, 3, 1, 2).float()
    found = measured(Segmentation(), info(3), (logits, mask))
    assert found["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["iou"][:2].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert found["iou"][2].isnan()


def test_a_split_without_a_label_is_an_error():
    with pytest.raises(StillhouseError, match="must have pixels"):
        measured(Segmentation(), info(), (torch.randn(1, 3, 2, 2), torch.full((1, 2, 2), 255)))


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (torch.zeros(2, 5, 12, 16), r"\(B, 3, H, W\), got 5 channels.*num_classes = 3"),
        (torch.zeros(2, 3), "decoder"),
        ({"a": 1}, "got dict"),
    ],
)
def test_outputs_that_cannot_serve_are_refused(output, says):
    with pytest.raises(StillhouseError, match=says):
        Segmentation().check(output, torch.zeros(2, 12, 16, dtype=torch.long), info())


def test_a_mask_with_a_value_of_no_class_is_refused_and_the_option_named():
    mask = torch.zeros(2, 12, 16, dtype=torch.long)
    mask[0, 0, 0] = 11
    with pytest.raises(StillhouseError, match=r"classes 0 to 2, got 11.*ignore_index = 11"):
        Segmentation().check(torch.zeros(2, 3, 12, 16), mask, info())
    Segmentation(ignore_index=11).check(torch.zeros(2, 3, 12, 16), mask, info())


def test_data_that_ignores_another_value_is_refused():
    with pytest.raises(StillhouseError, match=r"must be the data's `ignore`, 11, got 255.*ignore_index = 11"):
        Segmentation().check(torch.zeros(2, 3, 12, 16), torch.zeros(2, 12, 16).long(), info(ignore=11))


def test_wrong_options_are_faults_with_their_key():
    with pytest.raises(StillhouseError, match=r"task\.args\.label_smoothing"):
        structure({"label_smoothing": 1.0}, Segmentation, "task.args")


def test_prediction_and_pictures():
    task, data = Segmentation(), info(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    logits = torch.zeros(3, 6, 8)
    logits[1, :, :6] = 1
    assert task.prediction(data, logits) == {"classes": [{"class": "b", "share": 0.75}, {"class": "a", "share": 0.25}]}
    picture = task.picture(data, torch.rand(3, 12, 16), logits)
    assert picture.mode == "RGB"
    assert picture.width > picture.height
    figures = task.figures(data, torch.rand(4, 3, 12, 16), logits.expand(4, -1, -1, -1), torch.zeros(4, 12, 16).long())
    panels = figures["samples"].axes
    assert [a.get_title() for a in panels] == ["input", "target", "student", "wrong", *[""] * 12]
    legend = figures["samples"].legends[0]
    assert [t.get_text() for t in legend.get_texts()] == ["a", "b"]
