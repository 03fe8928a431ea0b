"""Distillation alone: what is measured, against scikit-learn, and what is fine-tuned from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support import FIVE, recipe

from stillhouse import Recipe, StillhouseError, prepare, train
from stillhouse.tasks.distillation import Distillation
from stillhouse.tasks.embeddings import measure_nearest_neighbours, measure_probe, measure_rank, to_vectors

ALONE: dict[str, Any] = {"task": {"name": "distillation", "args": {"k": 3}}}
LINKS = (FIVE["features"], FIVE["projector"])


def samples(n: int, dim: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return torch.randn(n, dim, generator=generator) + labels[:, None] * 0.4, labels


@pytest.mark.parametrize(("n", "k"), [(2, 1), (40, 1), (61, 20), (9, 20), (1100, 5)])
def test_the_vote_of_the_nearest_is_scikit_learns(n: int, k: int):
    z, labels = samples(n)
    x, y = z.double().numpy(), labels.numpy()
    rows = range(n) if n < 100 else range(0, n, 97)
    right = []
    for i in rows:
        others = np.delete(np.arange(n), i)
        model = KNeighborsClassifier(min(k, n - 1), metric="cosine", algorithm="brute").fit(x[others], y[others])
        right.append(model.predict(x[i : i + 1])[0] == y[i])
    if n < 100:
        assert measure_nearest_neighbours(z, labels, k) == pytest.approx(np.mean(right))
        return
    whole = measure_nearest_neighbours(z, labels, k)
    every = (
        KNeighborsClassifier(k + 1, metric="cosine", algorithm="brute").fit(x, y).kneighbors(x, return_distance=False)
    )
    votes = np.stack([np.bincount(y[row[row != i][:k]], minlength=3) for i, row in enumerate(every)])
    assert whole == pytest.approx(np.mean(votes.argmax(1) == y))


def test_samples_without_a_label_neither_vote_nor_count():
    z, labels = samples(30)
    known = labels.clone()
    known[20:] = -1
    assert measure_nearest_neighbours(z, known, 3) == measure_nearest_neighbours(z[:20], labels[:20], 3)
    assert measure_probe(z, known) == measure_probe(z[:20], labels[:20])
    assert math.isnan(measure_nearest_neighbours(z, torch.full((30,), -1), 3))
    assert math.isnan(measure_probe(z, torch.full((30,), -1)))
    assert math.isnan(measure_probe(z, torch.zeros(30, dtype=torch.long)))


@pytest.mark.parametrize("n", [60, 2300])
def test_the_probe_is_scikit_learns(n: int):
    z, labels = samples(n)
    rows = np.linspace(0, n - 1, min(n, 2000)).astype(np.int64)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    expected = cross_val_score(model, z.double().numpy()[rows], labels.numpy()[rows], cv=folds).mean()
    assert measure_probe(z, labels) == pytest.approx(expected)


def test_the_rank_counts_directions():
    basis = torch.linalg.qr(torch.randn(40, 4, generator=torch.Generator().manual_seed(0)))[0]
    assert measure_rank(basis - basis.mean(0), torch.zeros(40)) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("shape", [(2, 4), (2, 7, 4), (2, 4, 3, 5)])
def test_vectors_of_tokens_and_maps_are_means_over_positions(shape: tuple[int, ...]):
    x = torch.randn(shape)
    vectors = to_vectors(x)
    assert vectors.shape == (2, 4)
    kept = x if len(shape) == 2 else x.mean(1) if len(shape) == 3 else x.mean((2, 3))
    torch.testing.assert_close(vectors, kept)


def test_it_trains_on_the_plugins_terms_alone_and_measures_the_layer_that_they_read():
    training = prepare(recipe(*LINKS, **ALONE), write=False)
    before = {k: v.clone() for k, v in training.run.student.state_dict().items()}
    result = training.fit()
    after = training.run.student.state_dict()
    assert not torch.equal(before["body.weight"], after["body.weight"])
    assert set(result.metrics["val"]) == {"knn", "probe", "rank"}
    student, data = training.run.student.eval(), training.data
    vectors, labels = [], []
    kept: list[torch.Tensor] = []
    student.body.register_forward_hook(lambda _m, _i, out: kept.append(out))
    with torch.no_grad():
        for batch in data.evaluation("val"):
            student(batch.input)
            vectors.append(kept.pop().mean((2, 3)))
            labels.append(batch.target)
    expected = measure_nearest_neighbours(torch.cat(vectors), torch.cat(labels), 3)
    assert result.metrics["val"]["knn"] == pytest.approx(expected)


def test_data_without_classes_are_measured_by_rank():
    data = prepare(recipe(), write=False).run.data
    import attrs

    blind = Distillation(dim=7).for_data(attrs.evolve(data, target="none", classes=0))
    assert blind.score == "rank"
    assert blind.outputs(data) == 7
    assert set(blind.metrics(attrs.evolve(data, target="none"))) == {"rank"}
    assert Distillation().outputs(attrs.evolve(data, classes=0)) == 128
    assert blind.collate([None, None]).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("plugins", "options", "message"),
    [
        ((), {}, "no loss of its own"),
        (({"use": "features", "links": FIVE["features"]["links"], "distance": "none"},), {}, "no loss of its own"),
        (LINKS, {"layer": "bodie"}, "no plugin reads the student's layer 'bodie'"),
        (LINKS, {"k": 0}, "must be >= 1"),
        (LINKS, {"dim": 0}, "must be >= 1"),
    ],
)
def test_what_cannot_be_trained_or_measured_is_refused(plugins: Any, options: dict[str, Any], message: str):
    with pytest.raises(StillhouseError, match=message):
        prepare(recipe(*plugins, task={"name": "distillation", "args": options}), write=False)


def test_a_classifier_is_fine_tuned_from_it():
    first = recipe(*LINKS, task={"name": "distillation", "args": {"dim": 11}})
    student = {
        "model": "support:TinyNet",
        "args": {"width": 4},
        "recipe": first.to_dict(),
        "weights": "last",
        "replace_head": True,
    }
    training = prepare(recipe(teacher=None, student=student, data__per_class=4), write=False)
    trained = train(first, write=False).student.state_dict()
    start = training.run.student.state_dict()
    assert start["head.weight"].shape == (3, 4)
    assert all(torch.equal(start[key], trained[key]) for key in start if not key.startswith("head"))
    assert "accuracy" in training.fit().metrics["val"]


def test_a_dense_student_begins_with_its_encoder(tmp_path: Path):
    tables = {
        "run": {"name": "dense", "epochs": 1, "device": "cpu"},
        "data": {"name": "sklearn:digits", "limit": 64, "batch_size": 32},
        "task": {"name": "distillation", "args": {"dim": 5, "probe": False}},
        "student": {"model": "stillhouse.models:unet", "args": {"width": 4, "stages": 2}},
        "teacher": {"model": "stillhouse.models:convnet", "args": {"width": 8}, "random": True},
        "plugins": [
            {"use": "features", "links": [{"student": "encoder.stage2", "teacher": "stage2", "pool": "mean"}]},
            {"use": "projector"},
        ],
    }
    trained = train(Recipe.from_dict(tables), write=False).student.state_dict()
    recipe_of_start = Recipe.from_dict(tables).to_dict()
    student = {**tables["student"], "recipe": recipe_of_start, "weights": "last", "replace_head": True}
    fine = {**tables, "task": {"name": "denoising"}, "student": student, "plugins": []}
    fine.pop("teacher")
    start = prepare(Recipe.from_dict(fine), write=False).run.student.state_dict()
    own = [key for key in start if key.startswith("encoder")]
    assert own
    assert all(torch.equal(start[key], trained[key]) for key in own)
    assert start["head.weight"].shape[0] == 1
