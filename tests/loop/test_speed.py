"""Speed options: the same run, computed otherwise; what cannot be done is said, and said in time."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import support
import torch
from ignite.engine import Events
from support import FIVE, TinyNet, command, recipe, same_state, tables
from torch import nn
from torch.utils.data import TensorDataset

from stillhouse import Plugin, StillhouseError, StillhouseWarning, Weight, hookimpl, plugin, prepare, train
from stillhouse.errors import first_line
from stillhouse.loop.phases import Phase
from stillhouse.loop.taps import Taps
from stillhouse.schedule import Schedule
from stillhouse.training.compilation import graph_breaks

PAIR = [FIVE["features"], FIVE["projector"]]
EAGER = {"compile_args": {"backend": "eager"}}
NO_DROPOUT = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}

SGD = {"name": "sgd", "lr": 1e-2, "args": {"momentum": 0.9}}
"""Adam would blow rounding up where a gradient is nothing else: that of a bias before BatchNorm."""


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch._dynamo.reset()


def state(result: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in result.student.state_dict().items()}


def faults(changes: dict[str, Any], *plugins: Any) -> dict[str, str]:
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(*plugins, **changes), write=False)
    return {f.where: str(f) for f in caught.value.faults}


# torch.compile


@pytest.mark.parametrize("which", ["student", "teacher", "both"])
def test_compiled_models_train_to_the_same_weights(which: str):
    plain = train(recipe(*FIVE.values()), write=False)
    compiled = train(recipe(*FIVE.values(), speed={"compile": which, **EAGER}), write=False)
    assert same_state(state(plain), state(compiled))
    assert plain.metrics == compiled.metrics


def test_taps_are_part_of_one_graph_and_read_what_they_read_before():
    training = prepare(
        recipe(*FIVE.values(), speed={"compile": "both", "compile_args": {"backend": "aot_eager", "fullgraph": True}}),
        write=False,
    )
    assert graph_breaks(training.run.student, torch.randn(4, 1, 6, 6)) == []
    seen: list[tuple[Any, int]] = []
    training.run.trainer.add_event_handler(
        Phase.FORWARD_COMPLETED,
        lambda: seen.append(
            (
                training.run.trainer.state.step.student.features["body"].shape,
                torch._dynamo.utils.counters["stats"]["unique_graphs"],
            )
        ),
    )
    training.fit()
    assert [tuple(shape) for shape, _ in seen] == [(8, 4, 6, 6)] * 6
    assert seen[0][1] == seen[2][1], "the first epoch's steps compile nothing anew"


def test_graph_breaks_are_counted():
    class Breaking(nn.Module):
        def forward(self, x):
            x = x + 1
            torch._dynamo.graph_break()
            return x * 2

    assert len(graph_breaks(Breaking(), torch.ones(2))) == 1


def test_compiling_leaves_no_trace_before_training_and_none_after():
    training = prepare(recipe(*FIVE.values(), speed={"compile": "both", **EAGER}), write=False)
    student = training.run.student
    keys, before = list(student.state_dict()), {k: v.clone() for k, v in student.state_dict().items()}
    generator = torch.get_rng_state()
    training._compile()
    assert student._compiled_call_impl is not None
    assert training.run.teacher._compiled_call_impl is not None
    assert list(student.state_dict()) == keys
    assert same_state(student.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None for p in student.parameters())
    exported = training.export()
    assert exported._compiled_call_impl is None
    assert training.run.teacher._compiled_call_impl is None


def test_a_tap_on_a_compiled_model_is_refused():
    model = TinyNet()
    model.compile(backend="eager")
    with pytest.raises(StillhouseError, match="compiled already"):
        Taps(model, "student", ["body"])


class Uncompilable(nn.Module):
    """Works, and is no single graph."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(36, num_classes)

    def forward(self, x):
        torch._dynamo.graph_break()
        return self.head(x.flatten(1))


FULL = {"compile": "student", "compile_args": {"backend": "eager", "fullgraph": True}}


def test_a_failure_to_compile_is_an_error_before_anything_is_written(tmp_path):
    training = prepare(recipe(speed=FULL, teacher=None), student=Uncompilable(), out=tmp_path / "run")
    with pytest.raises(StillhouseError) as caught:
        training.fit()
    (fault,) = caught.value.faults
    assert fault.where == "speed.compile"
    assert "cannot compile the student" in fault.what
    assert "compile_fallback" in fault.hint
    assert "fullgraph = false" in fault.hint
    assert not (tmp_path / "run").exists()


def test_with_compile_fallback_it_goes_on_with_the_same_result():
    torch.manual_seed(0)
    start = Uncompilable().state_dict()

    def run(**changes: Any) -> dict[str, Any]:
        student = Uncompilable()
        student.load_state_dict(start)
        return state(train(recipe(teacher=None, **changes), student=student, write=False))

    with pytest.warns(StillhouseWarning, match="cannot compile the student.*goes on without"):
        fallen = run(speed={**FULL, "compile_fallback": True})
    assert same_state(fallen, run())


def test_what_cannot_be_compiled_is_refused_at_once():
    found = faults({"speed": {"compile": "both", "compile_args": {"backend": "inductr"}}, "teacher": None})
    assert set(found) == {"speed.compile", "speed.compile_args.backend"}
    assert "did you mean 'inductor'" in found["speed.compile_args.backend"]
    assert "no teacher" in found["speed.compile"]


@pytest.mark.slow
def test_inductor_agrees_with_eager():
    settings: dict[str, Any] = {"student": NO_DROPOUT, "optimizer": SGD}
    plain = train(recipe(*FIVE.values(), **settings), write=False)
    fast = train(recipe(*FIVE.values(), **settings, speed={"compile": "both"}), write=False)
    for name, value in state(plain).items():
        torch.testing.assert_close(value, state(fast)[name], rtol=1e-3, atol=1e-4)


# memory format and precision


def test_channels_last_agrees():
    settings: dict[str, Any] = {"student": NO_DROPOUT, "optimizer": SGD}
    plain = train(recipe(*FIVE.values(), **settings), write=False)
    training = prepare(recipe(*FIVE.values(), **settings, speed={"channels_last": True}), write=False)
    seen = []

    def look() -> None:
        step = training.run.trainer.state.step
        seen.append(
            [
                x.is_contiguous(memory_format=torch.channels_last)
                for x in (step.inputs, step.student.features["body"], step.teacher.features["body"])
            ]
        )

    training.run.trainer.add_event_handler(Phase.FORWARD_COMPLETED, look)
    assert training.run.student.body.weight.is_contiguous(memory_format=torch.channels_last)
    last = training.fit()
    assert seen == [[True] * 3] * 6
    assert last.student.body.weight.is_contiguous()
    for name, value in state(plain).items():
        torch.testing.assert_close(value, state(last)[name], rtol=1e-4, atol=1e-5)


def test_channels_last_is_for_images(monkeypatch):
    vectors = TensorDataset(torch.randn(24, 36), torch.arange(24) % 3)
    monkeypatch.setattr(support, "vectors", lambda: vectors, raising=False)
    training = recipe(data__name="support:vectors", teacher=None, speed={"channels_last": True})
    with pytest.raises(
        StillhouseError, match=r"speed.channels_last: it is for images \(C, H, W\), and the inputs are \(36\)"
    ):
        prepare(training, student=nn.Linear(36, 3), write=False)


@pytest.mark.parametrize("own", ["bfloat16", "float16"])
def test_the_teacher_has_a_precision_of_its_own(own: str):
    training = prepare(recipe(*PAIR, speed={"teacher_precision": own}), write=False)
    seen = []
    training.run.trainer.add_event_handler(
        Phase.FORWARD_COMPLETED,
        lambda: seen.append(
            (
                training.run.trainer.state.step.student.features["body"].dtype,
                training.run.trainer.state.step.teacher.features["body"].dtype,
            )
        ),
    )
    result = training.fit()
    assert set(seen) == {(torch.float32, getattr(torch, own))}
    full = train(recipe(*PAIR), write=False)
    for name, value in state(full).items():
        # How much half precision moves a trained weight depends on the processor.
        torch.testing.assert_close(value, state(result)[name], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("teacher_precision", ["same", "float32"])
def test_same_follows_the_run(teacher_precision: str):
    training = prepare(
        recipe(*PAIR, run__precision="bfloat16", speed={"teacher_precision": teacher_precision}), write=False
    )
    models = training.run.composition.models
    expected = torch.bfloat16 if teacher_precision == "same" else torch.float32
    precisions = {name: model.precision for name, model in models.items()}
    assert precisions == {"student": torch.bfloat16, "teacher": expected}


@plugin
class Dtypes(Plugin):
    """Notes the types of links and losses."""

    after = ("features", "normalizer", "projector", "spectral", "logits")

    @hookimpl
    def transform(self, step):
        SEEN["links"] |= {x.dtype for link in step.links.values() for x in (link.student, link.teacher)}

    @hookimpl
    def losses_computed(self, step):
        SEEN["losses"] |= {loss.dtype for loss in step.losses.values()}
        SEEN["features"] |= {x.dtype for x in step.student.features.values()}
        VALUES.append({name: float(loss.detach()) for name, loss in step.losses.items()})


SEEN: dict[str, set[torch.dtype]] = {}
VALUES: list[dict[str, float]] = []


def first_losses(precision: str, plugins: list[Any]) -> dict[str, float]:
    from stillhouse.registry.plugins import plugins_in_use

    VALUES.clear()
    SEEN.update(links=set(), losses=set(), features=set())
    actives = [a.plugin for a in plugins_in_use(plugins)]
    settings: dict[str, Any] = {"student": NO_DROPOUT, "run__epochs": 1, "run__precision": precision}
    train(recipe(**settings), plugins=[*actives, Dtypes()], write=False)
    return VALUES[0]


@pytest.mark.parametrize("normalizer", ["layer", "batch", "whiten", "l2", "rms"])
@pytest.mark.parametrize("projector", ["orthogonal", "mlp"])
def test_methods_compute_in_float32_inside_autocast(normalizer: str, projector: str):
    plugins = [
        {**FIVE["features"], "links": [{"student": "body", "teacher": "body", "pool": "none"}]},
        {"use": "normalizer", "kind": normalizer, "side": "both", "eps": 1e-2},
        {"use": "projector", "kind": projector},
        {**FIVE["spectral"], "pool": "none"},
        {**FIVE["spectral"], "name": "warm", "method": "warm"},
        FIVE["logits"],
    ]
    low = first_losses("bfloat16", plugins)
    assert SEEN["features"] == {torch.bfloat16}, "or the test shows nothing"
    assert SEEN["links"] == {torch.float32}
    assert SEEN["losses"] == {torch.float32}
    full = first_losses("float32", plugins)
    assert low.keys() == full.keys()
    for name in full:
        assert low[name] == pytest.approx(full[name], rel=0.05, abs=2e-3), name


# optimizers and schedules


def test_a_fused_optimizer_steps_alike():
    plain = train(recipe(optimizer=SGD), write=False)
    fused = train(recipe(optimizer={**SGD, "args": {"momentum": 0.9, "fused": True}}), write=False)
    for name, value in state(plain).items():
        torch.testing.assert_close(value, state(fused)[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ({"name": "adamw", "args": {"fused": True, "foreach": True}}, "cannot be"),
        ({"name": "rmsprop", "args": {"fused": True}}, "no argument 'fused'"),
    ],
)
def test_what_cannot_be_fused_is_said(optimizer: dict[str, Any], says: str):
    found = faults({"optimizer": optimizer})
    assert says in next(iter(found.values()))
    assert all(where.startswith("optimizer") for where in found)


def test_a_warm_up_in_steps_or_epochs_is_that_of_the_fraction():
    by_fraction = Schedule(warmup=0.25, decay="cosine", final=0.1, peak=2.0)
    by_steps = Schedule(warmup_steps=10, decay="cosine", final=0.1, peak=2.0).to_steps(40, 8)
    by_epochs = Schedule(warmup_epochs=1.25, decay="cosine", final=0.1, peak=2.0).to_steps(40, 8)
    expected = [by_fraction.at(step, 40) for step in range(40)]
    assert [by_steps.at(step, 40) for step in range(40)] == expected
    assert [by_epochs.at(step, 40) for step in range(40)] == expected
    assert expected[:10] == pytest.approx([2.0 * (n + 1) / 10 for n in range(10)])


def test_every_warm_up_of_whole_steps_ends_where_it_says():
    for total in (3, 7, 30, 97):
        for steps in range(1, total + 1):
            values = [Schedule(warmup_steps=steps).at(n, total) for n in range(total)]
            assert values == pytest.approx([min(1.0, (n + 1) / steps) for n in range(total)])


def test_learning_rate_and_weights_warm_up_in_steps():
    features = {**FIVE["features"], "weight": {"warmup_epochs": 1}}
    training = prepare(recipe(features, FIVE["projector"], schedule={"warmup_steps": 4}), write=False)
    seen = []
    training.run.trainer.add_event_handler(
        Phase.LOSSES_COMPUTED,
        lambda: seen.append(
            (training.optimizer.param_groups[0]["lr"], training.run.trainer.state.step.weights["features"])
        ),
    )
    training.fit()
    assert [lr for lr, _ in seen] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert [weight for _, weight in seen] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])


def test_a_warm_up_that_does_not_end_is_refused():
    assert "the run has 6 steps" in faults({"schedule": {"warmup_steps": 7}})["schedule: warmup_steps"]
    features = {**FIVE["features"], "weight": {"warmup_epochs": 1.5, "until": 0.5}}
    assert "step 3 on" in faults({}, features, FIVE["projector"])["plugin 'features': weight: warmup_epochs"]
    with pytest.raises(StillhouseError, match="cannot be combined"):
        Schedule(warmup=0.1, warmup_steps=3)
    with pytest.raises(StillhouseError, match="must be finite and >= 0, got -1"):
        Schedule(warmup_epochs=-1.0)


# memory


@plugin
class Greedy(Plugin):
    """Says what torch says when memory is not enough."""

    error: str = "cuda"
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        if step.student.output.requires_grad:
            text = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."
            if self.error == "cpu":
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            raise torch.OutOfMemoryError(text) if self.error == "cuda" else MemoryError
        return {"": step.student.output.square().mean()}


@pytest.mark.parametrize("error", ["cuda", "cpu", "python"])
def test_too_little_memory_says_what_was_tried_and_what_to_lower(error: str):
    with pytest.raises(StillhouseError) as caught:
        train(recipe(run__precision="float32"), plugins=[Greedy(error=error)], write=False)
    (fault,) = caught.value.faults
    assert "(8, 1, 6, 6) in float32" in fault.what
    assert "support:TinyNet" in fault.what
    assert "accumulate = 2" in fault.hint
    assert "batch_size = 4" in fault.hint
    assert 'precision = "bfloat16"' in fault.hint
    assert any("plugin 'greedy', hook 'losses'" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("where", ["assembly", "moving", "evaluation"])
def test_too_little_memory_is_said_wherever_it_shows(where: str):
    class Large(TinyNet):
        def forward(self, x):
            if where == "assembly" or (where == "evaluation" and not self.training):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x)

        def _apply(self, function, recurse=True):
            if where == "moving":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super()._apply(function, recurse)

    with pytest.raises(StillhouseError, match=r"out of memory with batches of \(8, 1, 6, 6\)"):
        train(recipe(teacher=None), student=Large(), write=False)


def test_out_of_memory_ends_the_command_with_code_2(tmp_path, fake_distribution, monkeypatch):
    source = (
        "import torch\nfrom stillhouse import Plugin, Weight, hookimpl, plugin\n\n\n@plugin\nclass Hungry(Plugin):\n"
        "    weight: Weight = 1.0\n\n    @hookimpl\n    def losses(self, step):\n"
        "        if step.student.output.requires_grad:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory.')\n        return {}\n"
    )
    import tomli_w

    site = fake_distribution("hungry", {"hungry": "hungry:Hungry"}, source)
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(tables(plugins=[{"use": "hungry"}])))
    done = command("train", str(path), "--out", str(tmp_path / "run"), "--quiet", PYTHONPATH=str(site))
    assert done.returncode == 2, done.stderr
    assert "out of memory with batches of (8, 1, 6, 6)" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_errors_pass_as_they_are():
    class Broken(TinyNet):
        def forward(self, x):
            if self.training and torch.is_grad_enabled():
                raise ValueError("not memory")
            return super().forward(x)

    with pytest.raises(ValueError, match="not memory"):
        train(recipe(teacher=None), student=Broken(), write=False)


def test_the_first_line_says_something():
    assert first_line(ValueError("\n  \nbackend='x' raised:\nno compiler\nmore")) == "backend='x' raised: no compiler"
    assert first_line(ValueError()) == "ValueError"


# what a run is


def test_the_digest_tells_runs_apart():
    changes: list[dict[str, Any]] = [
        {},
        {"speed": {"channels_last": True}},
        {"speed": {"compile": "student"}},
        {"speed": {"teacher_precision": "bfloat16"}},
        {"ema": {}},
        {"ema": {"decay": 0.9}},
        {"early_stopping": {}},
        {"schedule": {"warmup_steps": 2}},
        {"data__batch_transforms": [{"use": "MixUp"}]},
    ]
    digests = [recipe(**change).digest() for change in changes]
    assert len(set(digests)) == len(changes)


@pytest.mark.parametrize(
    "speed", [{"compile": "both", **EAGER}, {"channels_last": True}, {"teacher_precision": "bfloat16"}]
)
def test_a_resumed_run_is_the_same_bit_for_bit(speed: dict[str, Any], tmp_path):
    made = recipe(*FIVE.values(), speed=speed, checkpoints={"every_steps": 2}, schedule={"warmup_steps": 2})
    whole = train(made, write=False)
    training = prepare(made, out=tmp_path / "run")
    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: _stop_at(training, 5))
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = train(made, out=tmp_path / "run", resume=True)
    assert again.summary["resumed_at_step"] == 4
    assert same_state(state(whole), state(again))


def _stop_at(training: Any, step: int) -> None:
    if training.run.trainer.state.iteration == step:
        raise KeyboardInterrupt


@pytest.mark.gpu
@pytest.mark.parametrize(
    "speed",
    [
        {"channels_last": True, "teacher_precision": "bfloat16"},
        {"compile": "both"},
        {"compile": "both", "channels_last": True, "compile_args": {"mode": "reduce-overhead"}},
    ],
)
def test_no_option_makes_the_step_wait_for_cuda(speed: dict[str, Any]):
    if not torch.cuda.is_available():
        pytest.fail("needs a CUDA device")
    plugins = [*(t for n, t in FIVE.items() if n != "spectral"), {**FIVE["spectral"], "method": "warm"}]
    settings: dict[str, Any] = {
        "run__device": "cuda",
        "run__precision": "bfloat16",
        "run__log_every": 1000,
        "run__epochs": 3,
        "data__drop_last": True,
        "data__batch_transforms": [{"use": "MixUp"}],
        "optimizer": {"lr": 1e-2, "args": {"fused": True}},
        "ema": {},
    }
    training = prepare(recipe(*plugins, **settings, speed=speed), write=False)
    process = training.run.trainer._process_function

    def guarded(engine: Any, batch: Any) -> Any:
        # The first epoch compiles; the last step of each epoch is logged, which is one copy of all scalars.
        logged = engine.state.iteration % training.run.steps_per_epoch == 0
        torch.cuda.set_sync_debug_mode("error" if engine.state.iteration > 3 and not logged else "default")
        try:
            return process(engine, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    training.run.trainer._process_function = guarded
    result = training.fit()
    assert result.metrics["val"].keys() == result.metrics["val_ema"].keys()
    assert training.observers.ema.updates == 9
