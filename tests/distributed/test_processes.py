"""Several processes do what one does: the same losses, weights and metrics at the same global batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from support import TESTS, tables
from support.forks import run
from support.process_support import WORKER, alone, check_curves, found, free_port, norm, start, start_with
from support.processes import PlainNet

from stillhouse import Recipe, prepare
from stillhouse.data.sampler import EpochBatches, OrderedBatches
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import spreads_on_cpu
from stillhouse.errors import StillhouseError
from stillhouse.loop.stepper import split

FEATURES = {"use": "features", "links": [{"student": "body.1", "teacher": "body.1", "pool": "none"}]}
GATHERING = [
    FEATURES,
    {"use": "normalizer", "kind": "whiten"},
    {"use": "normalizer", "name": "scale", "kind": "rms", "side": "both"},
    {"use": "projector"},
    {"use": "spectral", "layer": "body.1", "rank": 2},
    {"use": "logits"},
]


def run_tables(*plugins: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """51 steps of PlainNet in batches of 8; 9 validation samples, which two processes cannot share evenly."""
    run = {"name": "par", "epochs": 17, "seed": 3, "device": "cpu", "log_every": 10, "base": str(TESTS), "threads": 1}
    return tables(
        run={**run, **changes.pop("run", {})},
        student={"model": "support.processes:PlainNet", "args": {"width": 4}},
        # Wide enough that a block inside a block is spread by itself.
        teacher={"model": "support.processes:PlainNet", "args": {"width": 90}, "random": True},
        plugins=list(plugins),
        **changes,
    )


@pytest.fixture(scope="module")
def one() -> tuple[np.ndarray, Any]:
    return alone(run_tables(*GATHERING))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parallel") / "two"
    ended = start(run_tables(*GATHERING), out)
    assert [code for code, _ in ended] == [0, 0], ended
    return out


def check_like_one(out: Path, one: tuple[np.ndarray, Any]) -> None:
    curve, result = one
    first = found(out)
    assert curve.shape == (51, 5)
    check_curves(np.array(first["curve"]), curve)
    assert first["norm"] == pytest.approx(norm(result.student), rel=1e-5)
    for split_name, values in result.metrics.items():
        assert first["metrics"][split_name] == pytest.approx(values, rel=1e-5)
    assert found(out, 1)["metrics"] == first["metrics"]
    assert first["summary"]["processes"] == 2


def test_two_processes_give_the_losses_weights_and_metrics_of_one(two, one):
    check_like_one(two, one)


@pytest.mark.slow
def test_tasks_of_a_slurm_step_give_the_same(tmp_path, one):
    """What srun sets, without a cluster: ignite makes the port of the job's number."""
    port = free_port(range(15000, 25000))
    out = tmp_path / "slurm"
    out.mkdir()
    (out / "recipe.json").write_text(json.dumps(run_tables(*GATHERING)))
    common = {
        "SLURM_JOB_ID": f"77{port - 15000:04}",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
    }
    ended = start_with([{**common, "SLURM_PROCID": r, "SLURM_LOCALID": r} for r in "01"], out)
    assert [code for code, _ in ended] == [0, 0], ended
    check_like_one(out, one)


def test_only_the_first_process_writes(two):
    events = list((two / "run" / "tensorboard").glob("events*"))
    assert events
    assert len({event.name.split(".")[-2] for event in events}) == 1  # one process's number
    assert sorted(p.name for p in (two / "run").iterdir()) == [
        "checkpoints",
        "composition.txt",
        "history.jsonl",
        "lock.json",
        "metrics.csv",
        "recipe.toml",
        "summary.json",
        "tensorboard",
    ]
    lines = (two / "run" / "metrics.csv").read_text().splitlines()
    assert len({line.rpartition(",")[0] for line in lines}) == len(lines)  # by one process, each number once


@pytest.mark.skipif(not spreads_on_cpu(), reason="torch is older than 2.7")
def test_sharded_student_and_teacher_give_the_same_and_the_student_comes_back_whole(tmp_path, one):
    out = tmp_path / "sharded"
    ended = start(run_tables(*GATHERING, distributed={"shard": "both"}), out)
    assert [code for code, _ in ended] == [0, 0], ended
    check_like_one(out, one)


@pytest.mark.parametrize("shard", ["none", "both"] if spreads_on_cpu() else ["none"])
def test_a_second_pass_gives_the_same_in_two_processes(tmp_path, shard):
    """Of DDP one forward pass, of FSDP2 two before one backward pass."""
    view = {"use": "support.processes:SecondView"}
    curve, result = alone(run_tables(view, run={"epochs": 4}))
    out = tmp_path / shard
    ended = start(run_tables(view, run={"epochs": 4}, distributed={"shard": shard}), out)
    assert [code for code, _ in ended] == [0, 0], ended
    assert curve.shape == (12, 4)
    check_curves(np.array(found(out)["curve"]), curve)
    assert found(out)["norm"] == pytest.approx(norm(result.student), rel=1e-5)


def test_a_process_that_dies_ends_the_run_and_the_run_resumes(tmp_path, two):
    out = tmp_path / "dying"
    out.mkdir()
    recipe = run_tables(*GATHERING, checkpoints={"every_steps": 10})
    (out / "recipe.json").write_text(json.dumps(recipe))
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    ended = run(*torchrun, str(WORKER), str(out / "recipe.json"), str(out), "--stop", "25")
    assert ended.returncode != 0
    assert "rank      : 1" in ended.stderr
    assert "exitcode  : 7" in ended.stderr
    again = start(recipe, out, "--resume")
    assert [code for code, _ in again] == [0, 0], again
    assert found(out)["summary"]["resumed_at_step"] >= 20
    assert found(out)["norm"] == found(two)["norm"]


def test_processes_with_other_recipes_are_refused(tmp_path):
    recipes = [run_tables(FEATURES, {"use": "projector"}), run_tables(FEATURES, {"use": "projector", "kind": "mlp"})]
    ended = start(recipes, tmp_path / "other")
    assert [code for code, _ in ended] == [2, 2]
    for _, output in ended:
        assert "rank 1: the recipe's plugins[1].kind must be rank 0's, orthogonal, got mlp" in output
        assert "Traceback" not in output
    assert not (tmp_path / "other" / "run").exists()


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment = {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        (tmp_path / "recipe.json").write_text(json.dumps(run_tables(FEATURES, {"use": "projector"})))
        ended = run("support.processes", str(tmp_path / "recipe.json"), str(tmp_path), **environment)
    assert ended.returncode == 2
    assert f"port {port} is in use" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_give_the_step_of_the_whole_batch(parts):
    plugins = [FEATURES, {"use": "normalizer", "kind": "layer"}, {"use": "projector"}, {"use": "logits"}]
    curve, result = alone(run_tables(*plugins))
    in_parts, same = alone(run_tables(*plugins, run={"accumulate": parts}))
    check_curves(in_parts, curve)
    assert norm(same.student) == pytest.approx(norm(result.student), rel=1e-5)


def test_clipping_scales_all_gradients_together():
    recipe = run_tables(FEATURES, {"use": "projector"}, run={"epochs": 1}, optimizer={"lr": 1e-2, "clip_norm": 1e-3})
    training = prepare(Recipe.from_dict(recipe), write=False)
    norms = []

    def look() -> None:
        gradients = [p.grad for g in training.optimizer.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten().double() for g in gradients]))))

    training.optimizer.register_step_pre_hook(lambda *_: look())
    training.fit()
    assert len(norms) == 3
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3)


def test_a_scaled_float16_run_resumes_bit_for_bit(tmp_path):
    recipe = run_tables(FEATURES, {"use": "projector"}, run={"epochs": 4, "precision": "float16"})
    whole = prepare(Recipe.from_dict(recipe), out=tmp_path / "whole").fit()
    training = prepare(Recipe.from_dict(recipe), out=tmp_path / "cut")

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    training.run.trainer.add_event_handler(Events.EPOCH_STARTED(once=3), stop)
    with pytest.raises(StopError):
        training.fit()
    resumed = prepare(Recipe.from_dict(recipe), out=tmp_path / "cut", resume=True).fit()
    assert resumed.summary["resumed_at_step"] == 6
    assert norm(resumed.student) == norm(whole.student)
    assert np.isfinite(norm(whole.student))


def test_each_sample_is_in_one_share_and_all_shares_have_one_size():
    ids = np.arange(21)
    shares = [EpochBatches(ids=ids, batch_size=8, drop_last=False, seed=1, rank=r, world=2) for r in range(2)]
    whole = EpochBatches(ids=ids, batch_size=8, drop_last=False, seed=1)
    assert [s.steps_per_epoch for s in shares] == [3, 3]
    for first, second, together, _ in zip(*shares, whole, range(6), strict=False):
        assert len(first.ids) == len(second.ids)
        joined = np.stack([first.ids, second.ids], axis=1).flatten()  # every other sample each
        np.testing.assert_array_equal(joined, together.ids[: len(joined)])
        assert len(together.ids) - len(joined) < 2


@pytest.mark.parametrize(("n", "size"), [(9, 2), (8, 2), (17, 4), (3, 1), (4, 8)])
def test_an_evaluation_counts_each_sample_once(n, size):
    shares = [OrderedBatches(ids=np.arange(n), batch_size=size, rank=r, world=2) for r in range(2)]
    batches = [list(share) for share in shares]
    assert len(batches[0]) == len(batches[1]) == len(shares[0])
    assert [len(k.ids) for k in batches[0]] == [len(k.ids) for k in batches[1]]
    counted = [np.concatenate([k.ids for k in b])[: s.real] for b, s in zip(batches, shares, strict=True)]
    assert sorted(np.concatenate(counted)) == list(range(n))
    for b, s in zip(batches, shares, strict=True):  # no batch has nothing but a row that fills up
        assert s.real > sum(len(k.ids) for k in b[:-1])


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(StillhouseError, match="must be a multiple of the number of processes, 2, got 7"):
        EpochBatches(ids=np.arange(21), batch_size=7, drop_last=False, seed=1, world=2)


def test_parts_have_nearly_one_size_and_at_least_two_samples():
    from stillhouse.data import Batch

    batch = Batch(torch.randn(7, 2), torch.arange(7), torch.arange(7))
    assert [len(p.id) for p in split(batch, 2)] == [4, 3]
    assert [len(p.id) for p in split(batch, 8)] == [2, 3, 2]
    assert torch.equal(torch.cat([p.input for p in split(batch, 3)]), batch.input)


def test_in_one_process_gathering_gives_the_batch_itself():
    x = torch.randn(3, 2)
    assert parallel.gather(x) is x
    assert parallel.share(x) is x
    assert isinstance(PlainNet(3)(torch.randn(2, 1, 6, 6)), torch.Tensor)


@pytest.mark.parametrize(("processes", "said"), [("1", "so far, and at exit"), ("2", "so far")])
def test_a_process_of_several_ends_at_once_with_its_code_and_all_that_it_said(processes: str, said: str):
    """What the interpreter does at its end comes too late to abort it; a process by itself ends as any other."""
    program = """
import atexit
from stillhouse.distributed import processes as parallel
atexit.register(print, ", and at exit", end="")
print("so far", end="")
parallel.end(3)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "WORLD_SIZE": processes},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (3, said)
