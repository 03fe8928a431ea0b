"""Pictures of a run: which samples, when they are drawn, mistakes, confusion and curves against references, how large it all is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_score, recall_score
from support import FEATURES, FIVE, recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from stillhouse import train
from stillhouse.data import DataInfo
from stillhouse.tasks.confusion import draw_confusion
from stillhouse.tasks.depth import Depth
from stillhouse.tasks.images import ImageToImage
from stillhouse.tasks.pictures import make_error
from stillhouse.tasks.segmentation import Segmentation
from stillhouse.training.answers import THRESHOLDS, Answers, count_by_threshold
from stillhouse.training.drawing import MOST, DrawingPace
from stillhouse.training.spread import Spread

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
MOST_BYTES = 5e6


def read_events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "tensors": 0, "histograms": 0})
    found.Reload()
    return found


@QUICK
@given(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_samples_lie_evenly_over_the_whole_split(count: int, sizes: list[int]):
    spread, start = Spread(count), 0
    for size in [*sizes, -1, *sizes]:  # a second pass begins anew
        if size < 0:
            spread.begin()
            start = 0
            continue
        rows = torch.arange(start, start + size)
        values = {"input": rows, "target": [{"id": int(r)} for r in rows], "output": ({"a": rows},)}
        spread.take_in(sum(sizes), values)
        start += size
    found = spread.take_out()
    wanted = sorted({(2 * k + 1) * sum(sizes) // (2 * count) for k in range(count)})
    assert found["input"].tolist() == wanted
    assert [target["id"] for target in found["target"]] == wanted
    assert found["output"][0]["a"].tolist() == wanted
    assert spread.take_out() is None


def test_pictures_are_drawn_at_the_end_and_before_it_within_a_small_share_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("stillhouse.training.drawing.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def run(epochs: int, seconds: float, each: float) -> tuple[list[int], float]:
        now[0], drawn = 0.0, []
        pace = DrawingPace(epochs)
        for epoch in range(1, epochs + 1):
            now[0] += seconds
            if pace.is_due(epoch):
                drawn.append(epoch)
                with pace.drawing(epoch):
                    now[0] += each
        return drawn, now[0]

    assert run(12, 0.1, 0.3)[0] == [12], "a short run has them at its end"
    drawn, whole = run(100, 10.0, 0.8)
    assert drawn[-1] == 100
    assert 5 < len(drawn) <= MOST
    assert 0.8 * (len(drawn) - 1) <= 0.02 * whole
    assert len(run(1000, 100.0, 0.1)[0]) <= MOST


@QUICK
@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 99))
def test_counts_by_threshold_are_the_precision_and_recall_that_sklearn_finds(classes: int, rows: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(rows, classes, generator=generator)
    flags = torch.rand(rows, classes, generator=generator) < 0.4
    false, true = count_by_threshold(p, flags).flip(2).cumsum(2).flip(2)
    for threshold in (0, THRESHOLDS // 3, THRESHOLDS - 2):
        for c in range(classes):
            said = ((p[:, c] * (THRESHOLDS - 1)).long() >= threshold).numpy()
            t, f = int(true[c, threshold]), int(false[c, threshold])
            truth = flags[:, c].numpy()
            assert t / max(t + f, 1) == pytest.approx(precision_score(truth, said, zero_division=0))
            assert t / max(int(true[c, 0]), 1) == pytest.approx(recall_score(truth, said, zero_division=0))


def test_the_mistakes_it_is_surest_of_and_the_confusion_are_those_of_the_whole_split():
    generator = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(60, 3, generator=generator) * 2, torch.randint(0, 3, (60,), generator=generator)
    truth[7] = -100  # no class
    images = torch.arange(60.0)[:, None, None, None].expand(-1, 1, 2, 2)
    answers = Answers()
    for part in (slice(0, 25), slice(25, 60)):
        answers.take_in(images[part], logits[part], truth[part])
    known = truth >= 0
    wanted = confusion_matrix(truth[known], logits[known].argmax(1), labels=[0, 1, 2])
    assert answers._confusion.reshape(3, 3).tolist() == wanted.tolist()
    p, found = logits.softmax(1).max(1)
    wrong = [i for i in p.argsort(descending=True).tolist() if known[i] and found[i] != truth[i]][:8]
    assert answers._mistakes.images[:, 0, 0, 0].long().tolist() == wrong
    run: Any = SimpleNamespace(task=SimpleNamespace(outputs=lambda data: 3))
    run.data = SimpleNamespace(class_names=("cat", "dog", "$x"), mean=())
    drawn = answers.figures(run)
    assert [text.get_text() for text in drawn["confusion"].axes[0].get_yticklabels()] == ["cat", "dog", r"\$x"]
    titles = [place.get_title() for place in drawn["surest_mistakes"].axes]
    assert len(titles) == 8
    assert titles[0].startswith("student: ")


def test_of_many_classes_the_pairs_most_often_mixed_up_are_named():
    counts = torch.eye(40, dtype=torch.long) * 9
    counts[3, 5] = 4
    figure = draw_confusion(counts, [f"class {i}" for i in range(40)])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["class 3 as class 5"]


def test_a_run_on_the_digits_has_all_of_them_and_stays_small(tmp_path: Path):
    plugins = [FEATURES, FIVE["projector"], FIVE["logits"]]
    train(recipe(*plugins, run__epochs=20, run__figures=True), out=tmp_path / "run")
    events = read_events(tmp_path / "run")
    images = {"task/samples", "answers/confusion", "answers/surest_mistakes", "watcher/gram_matrices"}
    assert images <= set(events.Tags()["images"])
    assert any(tag.startswith("singular_values_log10/projector/") for tag in events.Tags()["histograms"])
    curve = tensor_util.make_ndarray(events.Tensors("precision_by_recall/all classes")[0].tensor_proto)
    assert curve.shape == (6, THRESHOLDS)
    assert curve[0, 0] + curve[3, 0] == curve[0].max()  # at threshold 0 all that is there is found
    folder = tmp_path / "run" / "tensorboard"
    config = (folder / "projector_config.pbtxt").read_text()
    tensors, metadata = sorted(folder.rglob("tensors.tsv")), sorted(folder.rglob("metadata.tsv"))
    assert config.count("embeddings {") == len(tensors) == len(metadata) == len(list(folder.rglob("sprite.png")))
    lines = metadata[0].read_text().splitlines()
    assert lines[0] == "side\tclass\tsample"
    assert {line.split("\t")[0] for line in lines[1:]} == {"student", "teacher"}
    assert len(tensors[0].read_text().splitlines()) == len(lines) - 1
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < MOST_BYTES


def test_a_run_that_stops_early_has_pictures_of_where_it_stopped(tmp_path: Path):
    stopping = {"patience": 1, "min_delta": 1.0}
    changes = {"run__epochs": 9, "run__figures": True, "early_stopping": stopping}
    result = train(recipe(FIVE["logits"], **changes), out=tmp_path / "run")
    assert result.summary["steps_done"] < result.summary["steps"]
    events = read_events(tmp_path / "run")
    for tag in ("task/samples", "answers/confusion"):
        assert [event.step for event in events.Images(tag)] == [result.summary["steps_done"]]


def test_a_run_without_pictures_has_none_and_the_same_result(tmp_path: Path):
    plugins, changes = (FEATURES, FIVE["projector"]), {"student__args": {"dropout": 0.3}, "run__epochs": 3}
    drawn = train(recipe(*plugins, **changes, run__figures=True), out=tmp_path / "drawn")
    plain = train(recipe(*plugins, **changes, run__figures=False), out=tmp_path / "run")
    assert (plain.metrics, plain.history) == (drawn.metrics, drawn.history)
    tags = read_events(tmp_path / "run").Tags()
    assert tags["images"] == tags["histograms"] == []
    assert not list((tmp_path / "run" / "tensorboard").rglob("*.tsv"))


def test_a_task_of_an_earlier_version_draws_as_it_did(tmp_path: Path):
    train(recipe(task={"name": "support.pictures:Earlier"}, run__figures=True), out=tmp_path / "run")
    assert "task/own" in read_events(tmp_path / "run").Tags()["images"]


@pytest.mark.parametrize(
    ("task", "channels", "target", "error"),
    [
        (Segmentation(), 3, torch.randint(0, 3, (2, 8, 8)), "wrong"),
        (Depth(), 1, torch.rand(2, 1, 8, 8) + 1, "error"),
        (ImageToImage(), 3, torch.rand(2, 3, 8, 8), "error"),
    ],
    ids=["segmentation", "depth", "image-to-image"],
)
def test_dense_tasks_show_input_target_student_teacher_and_error(task: Any, channels: int, target: Any, error: str):
    data = DataInfo(3, ("a", "b", "c"), (3, 8, 8), {}, "")
    shown = (data, torch.rand(2, 3, 8, 8), torch.rand(2, channels, 8, 8), target)
    figure = task.figures(*shown, torch.rand(2, channels, 4, 4))["samples"]
    titles = [place.get_title().split(" ")[0] for place in figure.axes]
    assert titles[:5] == ["input", "target", "student", "teacher", error]
    without = task.figures(*shown, [torch.rand(2)])["samples"]
    assert "teacher" not in [place.get_title() for place in without.axes]


def test_an_error_is_told_with_its_size_and_in_which_direction_it_goes():
    assert make_error(torch.tensor([[-1.0, 2.0]]), "m").title == "error ±2 m"
    assert make_error(torch.tensor([[0.5, float("nan")]])).title == "error 0.5"
