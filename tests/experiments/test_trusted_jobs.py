"""What is said with ``--trust`` reaches the processes that train an ablation's runs."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from support import recipe

from stillhouse import StillhouseError, train
from stillhouse.config.trust import trusting
from stillhouse.experiments.ablation import make_plan
from stillhouse.experiments.job import Job, run_job


@pytest.mark.usefixtures("strangers")
def test_a_job_trusts_what_its_ablation_trusts(tmp_path: Path):
    train(recipe(run__epochs=1), out=tmp_path / "teacher")
    asked = recipe({"use": "logits"}, teacher={"checkpoint": str(tmp_path / "teacher")}, run__epochs=1)
    with pytest.raises(StillhouseError, match="is code that no installed package registers"):
        make_plan(asked, seeds=1, leave_one_out=True, out=tmp_path / "plan")
    with trusting():
        plan, _ = make_plan(asked, seeds=1, leave_one_out=True, out=tmp_path / "plan")
        trusted = [Job.of(run) for run in plan.runs()]
    job = next(job for job in trusted if job.arm == "full")
    assert job.trust
    refused = run_job(attrs.evolve(job, trust=False))
    assert refused.summary is None
    assert "--trust" in refused.error
    assert run_job(job).summary is not None
