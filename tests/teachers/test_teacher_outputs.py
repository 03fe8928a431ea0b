"""Who reads a teacher's output finds the student's classes in it, in the student's order, or is told why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import FEATURES, TinyNet, recipe, tiny_data
from torch.utils.data import TensorDataset

from stillhouse import Recipe, StillhouseError, StillhouseWarning, export, prepare, train
from stillhouse.training.explanation import describe, render_text

LOGITS = {"use": "logits"}
NET = {"model": "support:TinyNet", "args": {"width": 6}}
HERE = f"{__name__}:ordered"


def ordered(names: list[str]) -> dict[str, TensorDataset]:
    """The tiny data with classes ``a``, ``b``, ``c``, labelled in the order of ``names``, of which each ends in its letter.

    A name of another letter has every seventh sample.
    """
    letters = [name[-1] for name in names]
    place = torch.tensor([letters.index(letter) if letter in letters else 0 for letter in "abc"])
    found = {}
    for split, data in tiny_data().items():
        x, y = data.tensors
        labels = place[y]
        for index, letter in enumerate(letters):
            if letter not in "abc":
                labels[::7] = index
        found[split] = TensorDataset(x, labels)
    return found


def data_of(*names: str) -> dict[str, Any]:
    args = {"names": list(names), "target": "class", "classes": list(names)}
    return {"name": HERE, "args": args, "batch_size": 8, "normalize": "none"}


def taught_by(*names: str, **more: Any) -> dict[str, Any]:
    own = recipe(run__name="teacher", teacher=None, student=NET, data=data_of(*names))
    return {"recipe": own.to_dict(), **more}


def student(*plugins: dict[str, Any], **changes: Any) -> Recipe:
    plain = {"fold_norms": False}  # what a teacher gives is compared to the bit, and its notes are counted
    return recipe(*plugins, **{"data": data_of("a", "b", "c"), "speed": plain, **changes})


def outputs_of(training: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What plugins read of the teacher for a batch, and what the module itself gives."""
    x = training.data.example(6).input
    with torch.no_grad():
        return training.walk.composition.models["teacher"](x).output, training.run.teacher(x)


@pytest.mark.parametrize(
    ("names", "order"),
    [(("a", "b", "c"), [0, 1, 2]), (("c", "a", "b"), [1, 2, 0]), (("c", "x", "b", "a"), [3, 2, 0])],
)
def test_classes_are_brought_into_the_students_order_by_name(names: tuple[str, ...], order: list[int]):
    training = prepare(student(LOGITS, teacher=taught_by(*names)), write=False)
    read, own = outputs_of(training)
    torch.testing.assert_close(read, own[:, order], rtol=0, atol=0)
    notes = describe(training)["teacher"]["notes"]
    assert bool(notes) == (order != [0, 1, 2])
    assert all("in the student's order ('a', 'b', 'c')" in note for note in notes)
    assert all(note in render_text(describe(training)) for note in notes)


def test_other_classes_are_refused_where_the_output_is_read_and_not_where_features_are():
    spec = taught_by("1_a", "2_b", "3_c")
    with pytest.raises(
        StillhouseError,
        match=r"plugin 'logits': teacher: the student's classes 'a', 'b', 'c' are none of the teacher's, '1_a', '2_b', '3_c' "
        r"\(classes = ",
    ):
        prepare(student(LOGITS, teacher=spec), write=False)
    training = prepare(student(FEATURES, {"use": "projector"}, teacher=spec), write=False)
    assert "not to be read" in describe(training)["teacher"]["notes"][0]
    training.fit()


def test_one_class_that_the_teacher_lacks_is_enough_to_be_refused():
    with pytest.raises(StillhouseError, match="the student's classes 'c' are none of the teacher's"):
        prepare(student(LOGITS, teacher=taught_by("a", "b", "x")), write=False)


def test_further_teachers_are_looked_at_likewise():
    teachers = {"assistant": taught_by("1_a", "2_b", "3_c")}
    made = student({**LOGITS, "teacher": "assistant"}, teacher=taught_by("a", "b", "c"), teachers=teachers)
    with pytest.raises(StillhouseError, match=r"teachers\.assistant: the student's classes 'a', 'b', 'c' are none"):
        prepare(made, write=False)


def test_the_recipe_says_whose_classes_they_are():
    same = prepare(student(LOGITS, teacher=taught_by("1_a", "2_b", "3_c", classes="same")), write=False)
    read, own = outputs_of(same)
    assert torch.equal(read, own)
    turned = prepare(student(LOGITS, teacher=taught_by("1_c", "2_a", "3_b", classes=["c", "a", "b"])), write=False)
    read, own = outputs_of(turned)
    assert torch.equal(read, own[:, [1, 2, 0]])


@pytest.mark.parametrize("kind", ["folder", "checkpoint", "export"])
def test_a_runs_folder_its_checkpoint_and_its_export_say_their_classes(tmp_path: Path, kind: str):
    run = tmp_path / "run"
    train(recipe(teacher=None, student=NET, data=data_of("c", "a", "b")), out=run)
    spec: dict[str, Any] = {**NET, "checkpoint": str(run / "checkpoints" / "last_6.pt")}
    if kind == "folder":
        spec = {"checkpoint": str(run)}
    elif kind == "export":
        spec["checkpoint"] = str(export(run, tmp_path / "teacher.safetensors").path)
    read, own = outputs_of(prepare(student(LOGITS, teacher=spec), write=False))
    assert torch.equal(read, own[:, [1, 2, 0]])


def test_a_file_without_names_is_taken_for_the_students_order_with_a_warning(tmp_path: Path):
    save_file(TinyNet(width=6).state_dict(), tmp_path / "teacher.safetensors")
    spec = {**NET, "checkpoint": str(tmp_path / "teacher.safetensors"), "normalize": "same"}
    with pytest.warns(StillhouseWarning, match=r"teacher: nothing says which classes its outputs are; taken to be the"):
        prepare(student(LOGITS, teacher=spec), write=False)
    prepare(student(FEATURES, {"use": "projector"}, teacher=spec), write=False)  # nobody asks
    prepare(student(LOGITS, teacher={**spec, "classes": "same"}), write=False)
    read, own = outputs_of(prepare(student(LOGITS, teacher={**spec, "classes": ["b", "c", "a"]}), write=False))
    assert torch.equal(read, own[:, [2, 0, 1]])


def test_names_decide_how_many_outputs_a_file_has(tmp_path: Path):
    save_file(TinyNet(num_classes=5, width=6).state_dict(), tmp_path / "teacher.safetensors")
    spec = {**NET, "checkpoint": str(tmp_path / "teacher.safetensors"), "normalize": "same"}
    made = student(LOGITS, teacher={**spec, "classes": ["e", "d", "c", "b", "a"]})
    read, own = outputs_of(prepare(made, write=False))
    assert torch.equal(read, own[:, [4, 3, 2]])


def test_a_teacher_of_another_task_has_no_classes_to_read():
    own = recipe(run__name="t", teacher=None, student=NET, task={"name": "self-supervised", "args": {"dim": 3}})
    with pytest.raises(
        StillhouseError, match="the teacher's outputs are no classes, and the student's are 'a', 'b', 'c'"
    ):
        prepare(student(LOGITS, teacher={"recipe": own.to_dict()}), write=False)


def test_cached_outputs_are_in_the_students_order_and_other_classes_are_refused_there():
    spec = taught_by("c", "a", "b")
    training = prepare(student({"use": "cache", "store": "float32"}, LOGITS, teacher=spec), write=False)
    served = training.run.module(training.actives[0].plugin).cache
    live = prepare(student(LOGITS, teacher=spec), write=False)
    ids = training.data.example(6).id
    expected, _ = outputs_of(live)
    torch.testing.assert_close(served.take("output", ids, 0, torch.device("cpu")), expected)
    other = taught_by("1_a", "2_b", "3_c")
    with pytest.raises(StillhouseError, match=r"plugin 'cache'.*none of the teacher's"):
        prepare(student({"use": "cache"}, LOGITS, teacher=other), write=False)
    prepare(student({"use": "cache", "outputs": False}, FEATURES, {"use": "projector"}, teacher=other), write=False)
