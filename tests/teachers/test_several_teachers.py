"""Several teachers: found, called, tapped and linked by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from support import TinyNet, interrupted, recipe, same_state
from support.assistants import ASSISTANT, BOTH, HINT, SECOND, STUDENT, prepare, trained, two
from torch import nn
from torch.nn import functional as F

from stillhouse import Plugin, Recipe, StillhouseError, Tap, TeacherSpec, hookimpl, load_student, plugin, train
from stillhouse import prepare as prepare_run
from stillhouse.contract.step import Side
from stillhouse.training.explanation import describe, render_text


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_two_teachers_train_as_a_loop_by_hand():
    # SGD: Adam makes steps of the rounding in the gradient of a bias before BatchNorm, which is zero.
    training = prepare(two(*BOTH, optimizer={"name": "sgd", "lr": 0.1}))
    teacher, assistant = training.run.teacher, training.run.teachers["assistant"]
    student = TinyNet(dropout=0.0)
    student.load_state_dict(training.run.student.state_dict())
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    maps: dict[str, torch.Tensor] = {}
    for name, model in (("student", student), ("assistant", assistant)):
        model.body.register_forward_hook(lambda _m, _x, out, name=name: maps.update({name: out}))

    def divergence(output: torch.Tensor, target: torch.Tensor, t: float) -> torch.Tensor:
        log_p, q = F.log_softmax(output / t, -1), F.softmax(target / t, -1)
        return F.kl_div(log_p, q, reduction="batchmean") * t * t

    totals = []
    for batch, _ in zip(training.data.training(), range(6), strict=False):
        with torch.no_grad():
            first, second = teacher(batch.input), assistant(batch.input)
        output = student(batch.input)
        hint = F.mse_loss(maps["student"].mean((2, 3)), maps["assistant"].mean((2, 3)))
        total = F.cross_entropy(output, batch.target)
        total = total + divergence(output, first, 4.0) + divergence(output, second, 2.0) + 0.5 * hint
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    result = training.fit()
    for key, value in student.state_dict().items():
        assert torch.allclose(value.float(), result.student.state_dict()[key].float(), atol=1e-5), key
    assert totals[-1] < totals[0]


def test_each_answers_under_its_name_and_the_engine_runs_those_that_nobody_answered_for():
    @plugin
    class Answers(Plugin):
        """Stands in for one teacher, and sees what comes of it."""

        requires = ("teacher",)
        name_: str = "assistant"
        seen: ClassVar[list[Any]] = []

        @hookimpl
        def add_taps(self, assembly):
            assert assembly.layers("assistant", "body") == ["body"]
            assert assembly.layers("teacher", "assistant:bod*") == ["assistant:body"]
            return [Tap("teacher", "assistant:body"), Tap("assistant", "head"), Tap("teacher", "norm")]

        @hookimpl
        def build(self, assembly):
            features = assembly.features
            assert {name: list(layers) for name, layers in features.items()} == {
                "student": [],
                "teacher": ["norm"],
                "assistant": ["body", "head"],
            }

        @hookimpl
        def teacher_forward(self, step):
            if not step.student.output.requires_grad:
                return None
            step.teachers["assistant"] = Side(torch.zeros(8, 3), {"body": torch.ones(1), "head": torch.ones(2)})
            return True

        @hookimpl
        def forward_completed(self, step):
            self.seen.append((step.teacher.output, step.side("assistant").output))
            assert step.side("teacher") is step.teacher
            assert [name for name, _ in step.tapped("assistant", "*")] == ["body", "head"]
            assert step.tapped("teacher", "assistant:body")[0][1].shape == (1,)
            assert [name for name, _ in step.tapped("teacher", "*")] == ["norm"]

    prepare(two(), plugins=[Answers()]).fit()
    assert len(Answers.seen) == 6
    for first, second in Answers.seen:
        assert first.abs().sum() > 0
        assert second.abs().sum() == 0


def test_a_step_lets_go_of_every_teachers_side():
    training = prepare(two(*BOTH))
    steps: list[Any] = []
    training.walk.composition.register_forward_pre_hook(lambda _m, inputs: steps.append(inputs[0]))
    training.fit()
    assert all(step.teachers == {} and step.teacher is None for step in steps[:-1])


def test_a_random_teachers_seed_has_its_name():
    training = prepare(two(assistant={**ASSISTANT, "args": {"width": 6}}))
    again = prepare(two(assistant={**ASSISTANT, "args": {"width": 6}}))
    alone = prepare(recipe())
    assert not same_state(training.run.teacher.state_dict(), training.run.teachers["assistant"].state_dict())
    assert same_state(again.run.teachers["assistant"].state_dict(), training.run.teachers["assistant"].state_dict())
    assert same_state(alone.run.teacher.state_dict(), training.run.teacher.state_dict())


def test_recipes_of_further_teachers_are_trained_once_and_their_inputs_are_their_own(own_cache: Path):
    assistant = {"recipe": trained(4, data__normalize="data")}
    made = two(*BOTH, teacher={"recipe": trained(6)}, assistant=assistant)
    training = prepare(made)
    folders = sorted(p.name.rpartition("-")[0] for p in (own_cache / "teachers").iterdir() if p.is_dir())
    assert folders == ["net-4", "net-6"]
    stamps = [p.stat().st_mtime_ns for p in own_cache.rglob("summary.json")]
    again = prepare(made)
    assert [p.stat().st_mtime_ns for p in own_cache.rglob("summary.json")] == stamps
    states = [t.run.teachers["assistant"].state_dict() for t in (training, again)]
    assert same_state(*states)
    assert hasattr(training.run.teachers["assistant"], "_stillhouse_scale")
    assert not hasattr(training.run.teacher, "_stillhouse_scale")
    other = two(*BOTH, teacher={"recipe": trained(6)}, assistant={"recipe": trained(4)})
    assert other.digest() != made.digest()


def test_further_teachers_that_no_plugin_reads_are_not_trained(own_cache: Path):
    train(two(assistant={"recipe": trained(4)}), write=False)
    assert not list(own_cache.rglob("summary.json"))


def test_a_runs_folder_brings_its_own_model(tmp_path: Path):
    student = {"model": "support:TinyNet", "args": {"width": 4}}
    run = train(recipe(teacher=None, student=student, data__normalize="data"), out=tmp_path / "assistant")
    training = prepare(two(*BOTH, assistant={"checkpoint": str(tmp_path / "assistant"), "weights": "last"}))
    found = training.run.teachers["assistant"]
    assert same_state(run.student.state_dict(), found.state_dict())
    assert hasattr(found, "_stillhouse_scale")
    torch.save(run.student.state_dict(), tmp_path / "weights.pt")
    for path, says in (("weights.pt", "only a run's folder says"), ("gone", "only a run's folder says")):
        with pytest.raises(StillhouseError, match=rf"teachers\.assistant\.checkpoint: .*{says}.*model = "):
            prepare(two(assistant={"checkpoint": str(tmp_path / path)}))
    train(recipe(teacher=None), student=TinyNet(), out=tmp_path / "given")
    with pytest.raises(StillhouseError, match="given its student"):
        prepare(two(assistant={"checkpoint": str(tmp_path / "given")}))


def test_a_run_with_two_teachers_resumes_bit_for_bit(tmp_path: Path):
    whole = train(two(*BOTH), out=tmp_path / "whole")
    interrupted(prepare_run(two(*BOTH, checkpoints={"every_steps": 1}), out=tmp_path / "cut"), at=4)
    resumed = train(two(*BOTH, checkpoints={"every_steps": 1}), out=tmp_path / "cut", resume=True)
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())
    other = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.3}, "random": True}
    with pytest.raises(StillhouseError, match=r"teachers\.assistant\.args\.dropout was 'absent' and is 0\.3"):
        train(two(*BOTH, assistant=other), out=tmp_path / "whole", resume=True)


def test_a_run_is_explained_with_every_teacher():
    description = describe(prepare(two(*BOTH)))
    assert description["teachers"]["assistant"]["parameters"] == sum(p.numel() for p in TinyNet(width=4).parameters())
    assert description["taps"]["assistant"] == {"body": "(2, 4, 6, 6)"}
    assert "assistant support:TinyNet (random): " in render_text(description)


def test_modules_from_python(tmp_path: Path):
    assistant, teacher = TinyNet(width=4), TinyNet(width=6)
    before = {k: v.clone() for k, v in assistant.state_dict().items()}
    plain = recipe(*BOTH, student=STUDENT, teacher=None)
    train(plain, teacher=teacher, teachers={"assistant": assistant}, out=tmp_path / "run")
    assert same_state(before, assistant.state_dict())
    resolved = Recipe.load(tmp_path / "run" / "recipe.toml")
    assert (resolved.teachers["assistant"].model, resolved.teachers["assistant"].given) == ("TinyNet", True)
    with pytest.raises(StillhouseError, match=r"given its teacher 'assistant' from Python.*teachers="):
        prepare(resolved, teacher=teacher)
    with pytest.raises(StillhouseError, match=r"teachers\.teacher: 'teacher' is another model's name"):
        prepare(plain, teacher=teacher, teachers={"teacher": assistant})
    shared = TinyNet()
    with pytest.raises(StillhouseError, match="student and assistant share"):
        prepare(plain, student=shared, teacher=teacher, teachers={"assistant": shared})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teachers": {"student": ASSISTANT}}, r"teachers\.student: 'student' is another model's name"),
        ({"teachers": {"a.b": ASSISTANT}}, "'a.b' cannot name a teacher"),
        ({"teacher": None}, r"teachers\.assistant: stands beside \[teacher\], and there is none"),
        ({"teachers": {"assistant": {"random": True}}}, r"teachers\.assistant\.model: missing key"),
        ({"teachers": {"assistant": {"recipe": "gone.toml"}}}, r"teachers\.assistant\.recipe: .*file not found"),
        (
            {"teachers": {"asistant": ASSISTANT}},
            r"'assistant', and the run has no such teacher \(did you mean 'asistant'",
        ),
        ({"teachers": {}}, r"'assistant', and the run has no such teacher \(add a \[teachers\.assistant\] table"),
    ],
)
def test_wrong_teachers_are_refused(changes: dict[str, Any], says: str):
    with pytest.raises(StillhouseError, match=says):
        prepare(two(HINT, **changes))


def test_an_option_that_names_no_teacher_is_refused():
    with pytest.raises(
        StillhouseError, match=r"plugin 'second': teacher: the run has no teacher 'asistant'.*assistant"
    ):
        prepare(two({**SECOND, "teacher": "asistant"}))
    with pytest.raises(StillhouseError, match="the assistant has no layer 'bodi'"):
        prepare(two({**HINT, "links": [{"student": "body", "teacher": "assistant:bodi"}]}))


def test_a_loaded_run_builds_models_of_the_same_shapes(tmp_path: Path):
    @plugin
    class Folds(Plugin):
        """Is asked at the end."""

        peer: TeacherSpec

        @hookimpl
        def build(self, assembly):
            return assembly.load(self, "peer").requires_grad_(False)

        @hookimpl
        def export(self, assembly, student):
            return nn.Sequential(student)

    peer = TeacherSpec(model="support:TinyNet", args={"width": 5}, random=True)
    made = two({"use": "logits"}, SECOND, HINT)
    instances = [Folds(peer=peer)]
    result = train(recipe(teacher=None), plugins=instances, out=tmp_path / "run")
    loaded = load_student(tmp_path / "run", plugins=instances, weights="last")
    assert same_state(loaded.state_dict(), result.student.state_dict())
    assert made.all_teachers.keys() == {"teacher", "assistant"}
