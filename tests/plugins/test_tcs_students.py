"""What stays of a run with the coordinate path: found again, measured, folded and explained without its teacher; its probe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from support import command, recipe, same_state

from stillhouse import StillhouseError, prepare, train
from stillhouse.assembly.evaluator import evaluate
from stillhouse.students.loader import load_student
from stillhouse_tcs import CoordinateHead, probe_teacher

BASE = {"use": "tcs", "layer": "dropout"}
"""The mean of ``body``, 6 numbers, is what the teacher's dropout is given and, in evaluation, gives."""

FEW = {"data__per_class": 4, "data__transforms": [{"use": "RandomCrop", "size": 6, "padding": 1}], "run__epochs": 4}


def test_the_run_is_found_again_measured_and_folded_without_its_teacher(tmp_path: Path):
    result = train(recipe({**BASE, "preset": "paper"}, **FEW), out=tmp_path / "run")
    last = load_student(tmp_path / "run", weights="last")
    assert same_state(last.state_dict(), result.student.state_dict())
    unfolded = load_student(tmp_path / "run", weights="last", fold_plugins=False)
    assert isinstance(unfolded.head, CoordinateHead)
    done = command("evaluate", str(tmp_path / "run"), "--weights", "last", "--split", "test")
    assert done.returncode == 0, done.stderr
    assert f"{result.metrics['test']['accuracy']:.4f}" in done.stdout


def test_the_students_metrics_are_those_of_the_folded_student():
    training = prepare(recipe({**BASE, "k": 3}, **FEW), write=False)
    result = training.fit()
    training.run.composition.models["student"].model = result.student
    training.run.composition.student = result.student
    again = evaluate(training.run.evaluator, training.run.composition, training.data.evaluation("test"), "test")
    assert again == pytest.approx(result.metrics["test"], rel=1e-4)


def test_an_explanation_shows_the_path_and_makes_no_cache(tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe({**BASE, "k": 3}).to_toml())
    done = command("explain", str(path), STILLHOUSE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert re.search(
        r"student's path at 'head': z \(4\) -> A z \+ b \(6\) -> V\^T\(. - mu\): 3 pca axes, [\d.]+% of the variance -> "
        r"3 live -> W c \+ b' \(3\); folded to one Linear\(4, 3\) at export",
        text,
    )
    assert "teacher's layer 'dropout': 6 features of 24 samples, rank" in text
    assert "read once into a cache, and not in memory during training" in text
    assert not list((tmp_path / "cache").glob("**/*.npy"))


# What the teacher knows


def test_the_teachers_probe_is_scikit_learns_on_its_features():
    plan = recipe(BASE, data__per_class=4, run__seed=3)
    found = probe_teacher(plan, "dropout")
    training = prepare(plan, write=False)
    teacher = prepare(recipe(run__seed=3), write=False).run.teacher
    assert teacher is not None
    teacher.eval()
    rows: dict[str, tuple[Any, Any]] = {}
    with torch.no_grad():
        for split in ("train", "val", "test"):
            batches = list(training.data.evaluation(split))
            maps = [torch.relu(teacher.body(torch.relu(teacher.norm(teacher.stem(b.input))))) for b in batches]
            rows[split] = torch.cat(maps).mean((2, 3)).numpy(), torch.cat([b.target for b in batches]).numpy()
    x, y = rows["train"]
    scale = np.sqrt(x.var(0, ddof=1).mean())
    probe = LogisticRegression(C=1.0, max_iter=1000).fit(x / scale, y)
    assert found == {
        split: pytest.approx(probe.score(rows[split][0] / scale, rows[split][1])) for split in ("val", "test")
    }


def test_a_probe_needs_a_teacher_and_a_layer():
    with pytest.raises(StillhouseError, match="teacher: needs a teacher"):
        probe_teacher(recipe(teacher=None))
    with pytest.raises(StillhouseError, match=r"teacher: unknown layer .dropput. .did you mean .dropout."):
        probe_teacher(recipe(), "dropput")
