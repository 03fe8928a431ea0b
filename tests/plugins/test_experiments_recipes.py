"""The experiments' own plugins and data: kernels against scikit-learn, measures against their definitions, observers that change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import pairwise
from support import FIVE, recipe, same_state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stillhouse import StillhouseError, prepare, train
from stillhouse.loop.phases import Phase
from stillhouse_experiments.recipes import kernels, observers
from stillhouse_experiments.recipes.characters import characters
from stillhouse_experiments.recipes.part_of_folder import part

KERNELS = "stillhouse_experiments.recipes.kernels"
OBSERVERS = "stillhouse_experiments.recipes.observers"


def rows(n: int = 9, c: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kernels_are_those_of_scikit_learn():
    z = rows(7)  # 21 pairs: one median, where torch takes the lower of two
    x = z.numpy()
    mean = float((x**2).sum(1).mean())
    distances = pairwise.euclidean_distances(x)
    median = np.median(distances[~np.eye(7, dtype=bool)])
    expected = {
        "inner": x @ x.T,
        "cosine": pairwise.cosine_similarity(x),
        "polynomial": pairwise.polynomial_kernel(x, degree=3, gamma=1 / mean, coef0=1),
        "rbf": pairwise.rbf_kernel(x, gamma=1 / (2 * median**2)),
    }
    for kernel, matrix in expected.items():
        np.testing.assert_allclose(kernels.kernel_matrix(z, kernel).numpy(), matrix, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kernel", ["inner", "cosine", "polynomial", "rbf"])
def test_alignment_is_one_for_the_same_samples_at_any_scale_and_rotation_and_has_a_gradient(kernel: str):
    z, other = rows(), rows(seed=1)
    turn, _ = torch.linalg.qr(rows(5, 5, seed=2))
    matrix = kernels.kernel_matrix(z, kernel)
    assert kernels.alignment(matrix, kernels.kernel_matrix(3 * z @ turn, kernel)) == pytest.approx(1.0, abs=1e-9)
    centre = np.eye(9) - 1 / 9
    a, b = (centre @ kernels.kernel_matrix(x, kernel).numpy() @ centre for x in (z, other))
    found = kernels.alignment(matrix, kernels.kernel_matrix(other, kernel)).item()
    assert found == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-9)
    student = other.clone().requires_grad_()
    (1 - kernels.alignment(kernels.kernel_matrix(student, kernel), matrix)).backward()
    assert student.grad is not None
    assert 0 < student.grad.norm() < float("inf")


def test_a_constant_batch_has_no_alignment_and_no_infinite_gradient():
    for kernel in ("inner", "cosine", "polynomial", "rbf"):
        student = torch.ones(4, 3, requires_grad=True)
        (
            1 - kernels.alignment(kernels.kernel_matrix(student, kernel), kernels.kernel_matrix(rows(4, 3), kernel))
        ).backward()
        assert student.grad is not None
        assert student.grad.isfinite().all(), kernel


def test_a_kernel_trains_and_an_unknown_one_is_refused():
    links = {**FIVE["features"], "distance": "none"}
    first = train(recipe(links, {"use": f"{KERNELS}:KernelSimilarity", "kernel": "rbf"}), write=False)
    assert first.summary["metrics"]["test"]["accuracy"] > 0
    with pytest.raises(StillhouseError, match="kernel"):
        prepare(recipe(links, {"use": f"{KERNELS}:KernelSimilarity", "kernel": "gauss"}), write=False)


def test_gram_errors_and_the_effective_rank_are_their_definitions():
    z = rows(8, 4)
    isometry = torch.linalg.qr(rows(6, 4, seed=1)).Q
    assert observers.gram_error(z, z @ isometry.T) < 1e-12
    assert observers.gram_error(z, 2 * z) == pytest.approx(3.0)
    assert observers.gram_angle(z, 2 * z) == pytest.approx(0.0, abs=1e-12)
    orthogonal = torch.eye(4, dtype=torch.float64) - 0.25
    assert observers.effective_rank(orthogonal) == pytest.approx(3.0, abs=1e-6)
    assert observers.effective_rank(torch.outer(torch.arange(5.0), torch.ones(3)).double()) == pytest.approx(
        1.0, abs=1e-6
    )


def test_observers_change_nothing_and_log_what_they_see(tmp_path: Path):
    plugins = [FIVE["features"], {"use": "projector", "kind": "orthogonal"}, FIVE["spectral"]]
    watching = [
        {"use": f"{OBSERVERS}:Similarity", "name": "look"},
        {"use": f"{OBSERVERS}:Rank", "name": "rank", "layer": "body"},
        {"use": f"{OBSERVERS}:GradientCosines", "name": "angle", "every": 2},
    ]
    plain = train(recipe(*plugins), out=tmp_path / "plain")
    watched = train(recipe(*plugins, *watching, run__log_every=1), out=tmp_path / "watched")
    assert same_state(plain.student.state_dict(), watched.student.state_dict())
    events = EventAccumulator(str(tmp_path / "watched" / "tensorboard"))
    events.Reload()
    last = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("plugin/")}
    assert last["plugin/look/gram_error"] < 1e-5
    assert last["plugin/look/rank"] == pytest.approx(last["plugin/rank/rank"], rel=1e-5)
    angles = {tag: value for tag, value in last.items() if "_and_" in tag}
    assert set(angles) == {
        f"plugin/angle/{pair}" for pair in ("task_and_features", "task_and_spectral", "features_and_spectral")
    }
    assert all(-1 <= value <= 1 for value in angles.values())


def test_the_cosine_of_two_terms_is_that_of_their_gradients_written_out():
    training = prepare(
        recipe(
            FIVE["features"], {"use": "projector"}, {"use": f"{OBSERVERS}:GradientCosines", "name": "angle", "every": 1}
        ),
        write=False,
    )
    found: list[float] = []
    expected: list[float] = []

    def compare(engine: Any) -> None:
        step = engine.state.step
        module = training.run.composition.modules_of["angle"]
        found.append(float(module.rows["task_and_features"]))
        parameters = list(training.run.student.parameters())
        flat = []
        for name in ("task", "features"):
            grads = torch.autograd.grad(step.losses[name], parameters, retain_graph=True, allow_unused=True)
            flat.append(
                np.concatenate(
                    [
                        np.zeros(p.numel()) if g is None else g.numpy().ravel()
                        for g, p in zip(grads, parameters, strict=True)
                    ]
                )
            )
        expected.append(flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]))

    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, compare)
    training.fit()
    assert len(found) == training.run.total_steps == 6
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def draw(root: Path, character: str, drawings: int) -> None:
    """Black strokes on white, each drawing with ink of a place of its own."""
    folder = root / "set" / character
    folder.mkdir(parents=True)
    for place in range(drawings):
        pixels = np.full((8, 8), 255, np.uint8)
        pixels[place, :] = 0
        Image.fromarray(pixels).convert("1").save(folder / f"{place:02}.png")


def test_characters_are_split_by_who_drew_them_and_alphabets_can_be_left_out(tmp_path: Path):
    for name in ("Beta/b1", "Alpha/a2", "Alpha/a1", "Known/k1"):
        draw(tmp_path, name, 4)
    found = characters(str(tmp_path), "set", train=3, size=4, leave_out=["Known"])
    assert found["train"].classes == ["Alpha/a1", "Alpha/a2", "Beta/b1"]
    images, labels = found["train"].tensors
    assert (images.shape, images.dtype) == ((9, 1, 4, 4), torch.uint8)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    held_out, of = found["test"].tensors
    assert of.tolist() == [0, 1, 2]
    # Half of a pixel is ink, since two rows become one; the fourth drawing's is in the second row.
    assert held_out[0, 0].tolist() == [[0] * 4, [127] * 4, [0] * 4, [0] * 4]


def test_characters_that_are_not_there_or_too_few_are_named(tmp_path: Path):
    draw(tmp_path, "Alpha/a1", 2)
    with pytest.raises(StillhouseError, match=r"data.args.root: there is no folder .*/other"):
        characters(str(tmp_path), "other", train=1, size=4)
    with pytest.raises(StillhouseError, match="a1 has 2 drawings, and 2 and some to test on are wanted"):
        characters(str(tmp_path), "set", train=2, size=4)


def test_a_part_of_a_folder_has_the_first_images_of_its_first_classes(tmp_path: Path):
    for shade, name in enumerate("abc"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((4, 4, 3), 10 * shade + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{number}.png")
    made = part(str(tmp_path), 2, 1, 4, test_from="train", classes=2)
    assert [[int(image[0, 0, 0]) for image, _ in made[split]] for split in made] == [[0, 1, 10, 11], [2, 12]]
    assert [[int(label) for _, label in made[split]] for split in made] == [[0, 0, 1, 1], [0, 1]]
    assert made["train"].classes == ["a", "b"]
    assert part(str(tmp_path), 2, 1, 4, test_from="train")["test"].classes == ["a", "b", "c"]
    chosen = part(str(tmp_path), 1, 1, 4, test_from="train", classes=["c", "a"])["train"]
    assert (chosen.classes, [int(image[0, 0, 0]) for image, _ in chosen]) == (["c", "a"], [20, 0])
    with pytest.raises(StillhouseError, match="there is no class 'd'"):
        part(str(tmp_path), 1, 1, 4, test_from="train", classes=["c", "d"])
    with pytest.raises(StillhouseError, match="classes: must be from 2 to 3, got 4"):
        part(str(tmp_path), 2, 1, 4, test_from="train", classes=4)
    with pytest.raises(StillhouseError, match="has 3 images, and 4 are wanted"):
        part(str(tmp_path), 3, 1, 4, test_from="train")
    with pytest.raises(StillhouseError, match="there is no folder"):
        part(str(tmp_path / "none"), 1, 1, 4)
