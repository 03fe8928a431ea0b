"""The full tier: its file, runs cut short and gone on with, what the small tier chose, and packs of its data."""

from __future__ import annotations

import importlib
import itertools
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tomli_w
from PIL import Image
from support import FEATURES, TESTS, tables

from stillhouse import StillhouseError
from stillhouse.data import load_data
from stillhouse.experiments import ablation

ROOT = Path(__file__).parents[1]
NAMES = ("_plan", "_tuning", "_page", "_full", "run", "pack")
PLAN: dict[str, Any] = {
    "title": "Tiny",
    "recipe": "tiny.toml",
    "metric": "test/accuracy",
    "seeds": 2,
    "reference": "none",
    "arms": [
        {"name": "none", "plugins": []},
        {"name": "one", "plugins": [FEATURES, {"use": "projector", "kind": "linear"}]},
    ],
}
TUNE = {"plugins.features.weight": [0.1, 1.0]}
PLACE = "<!-- results: plan-full -->\nNot run yet: needs a GPU.\n<!-- end -->\n"


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules beside ``run.py``, by name, with a plan, a tier and a page in ``tmp_path``."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/experiments"))
    found = {name: importlib.import_module(name) for name in NAMES}
    monkeypatch.setattr(found["_plan"], "PLANS", tmp_path)
    monkeypatch.setattr(found["_full"], "FULL", tmp_path / "full.toml")
    monkeypatch.setattr(found["run"], "HERE", tmp_path)
    monkeypatch.setattr(found["_page"], "machine", lambda: "none")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(tables()), encoding="utf-8")
    (tmp_path / "page.md").write_text(PLACE)
    save(tmp_path / "plan.toml", PLAN)
    save(tmp_path / "full.toml", {"experiments": [{"name": "plan", "minutes": 5, "seeds": 3}]})
    return found


def save(path: Path, content: dict[str, Any]) -> None:
    path.write_text(tomli_w.dumps(content), encoding="utf-8")


def full(scripts: Any, *more: str) -> int:
    code: int = scripts["run"].main(["--tier", "full", "--pages", ".", "--set", "run.device=cpu", "--jobs", "1", *more])
    return code


def summaries() -> dict[str, str]:
    return {str(path): path.read_text() for path in Path("runs").rglob("summary.json")}


def test_every_experiment_of_the_tier_is_a_plan_and_has_a_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/experiments"))
    module = importlib.import_module("_full")
    page = (ROOT / "docs/experiments/full.md").read_text(encoding="utf-8")
    entries = module.tier()
    places = [page.index(f"<!-- results: {entry.block} -->\n") for entry in entries]
    assert places == sorted(places)
    for entry in entries:
        experiment = entry.experiment(Path("out"), None, [])
        assert {run.recipe.run.device for run in experiment.plan.runs()} == {"cuda"}
        assert experiment.plan.folder == Path("out") / entry.block
    assert module.table() in page, "python docs/experiments/run.py --tier full --list writes it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([{"name": "plan", "minutes": 2, "seed": 3}], "unknown key 'seed'.*'seeds'"),
        ([{"name": "plan", "minutes": 2}, {"name": "plan", "minutes": 2}], "'plan' is there twice"),
        ([{"name": "plan", "minutes": 20.5}], "20.5 minutes, and all together may take 20"),
    ],
)
def test_what_is_wrong_with_the_tier_is_named(scripts: Any, tmp_path: Path, change: Any, message: str):
    save(tmp_path / "full.toml", {"experiments": change})
    with pytest.raises(StillhouseError, match=message):
        scripts["_full"].tier()


def test_bad_names_and_machines_are_refused(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert full(scripts, "plane") == 2
    assert "error: the full tier has no 'plane' (did you mean 'plan'?)" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == PLACE


def test_no_run_is_begun_when_time_is_over_and_the_next_call_goes_on(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert full(scripts, "--minutes", "0") == 0
    assert not summaries()
    assert "0 of 6 runs are finished; the same command goes on" in capsys.readouterr().err
    assert "Not run to an end yet: 0 of 6 runs are finished." in (tmp_path / "page.md").read_text()

    def until_after(runs: int) -> None:
        # No teacher is trained here: time is looked at once for each of the 6 runs by the teachers' walk, then by the runs'.
        clock = itertools.count()
        monkeypatch.setattr(scripts["run"], "_until", lambda minutes: 6 + runs)
        monkeypatch.setattr(ablation, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    monkeypatch.setattr(ablation, "_train_teachers", lambda runs, progress: list(runs))
    with monkeypatch.context() as patch:
        until_after(5)
        assert full(scripts) == 0
        patch.undo()
    before = summaries()
    assert len(before) == 5, "two whole seeds, and one arm of the third"
    text = (tmp_path / "page.md").read_text()
    assert "Seeds 3 to 4." in text
    assert "Not finished yet: 3 seeds are planned." in text
    assert json.loads(Path("results/plan-full.json").read_text())["missing"] == []
    monkeypatch.setattr(scripts["run"], "_until", lambda minutes: None)
    assert full(scripts) == 0
    after = summaries()
    assert len(after) == 6
    assert before.items() <= after.items(), "finished runs are kept as they were"
    text = (tmp_path / "page.md").read_text()
    assert "Seeds 3 to 5." in text
    assert "Not finished" not in text
    assert "`python docs/experiments/run.py --tier full plan --jobs 1 --set 'run.device=cpu'`" in text


def test_what_the_small_tier_chose_is_taken(scripts: Any, tmp_path: Path):
    arms = [PLAN["arms"][0], {**PLAN["arms"][1], "tune": TUNE}]
    save(
        tmp_path / "plan.toml",
        {**PLAN, "arms": arms, "tuning": {"seeds": [1000], "shared": {"optimizer.lr": [0.1, 0.2]}}},
    )
    (entry,) = scripts["_full"].tier()
    experiment = entry.experiment(tmp_path, None, [])
    numbers = tmp_path / "plan.json"
    taken = scripts["_tuning"].taken
    assert taken(experiment, numbers) is None
    common = {"metric": "val/accuracy", "seeds": [1000], "tried": []}
    lr = {**common, "arm": "none", "shared": True, "chosen": {"optimizer.lr": 0.2}}
    weight = {**common, "arm": "one", "shared": False, "chosen": {"plugins.features.weight": 0.1}}
    numbers.write_text(json.dumps({"chosen": [lr, weight]}))
    found, choices = taken(experiment, numbers)
    assert [choice.chosen for choice in choices] == [lr["chosen"], weight["chosen"]]
    assert {arm.recipe.optimizer.lr for arm in found.plan.arms} == {0.2}
    assert found.plan.arms[1].recipe.plugins[0]["weight"] == 0.1
    for other in ([lr], [weight], [lr, {**weight, "chosen": {"plugins.features.weight": 7.0}}]):
        numbers.write_text(json.dumps({"chosen": other}))
        assert taken(experiment, numbers) is None, "the plan leaves open what these numbers do not tell"


# --- packs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(scripts: Any, tmp_path: Path) -> Path:
    """The folder of the data sets of a plan: a student on few of ``pics``, its teacher on few of ``more``."""
    root = tmp_path / "sets"
    generator = np.random.default_rng(0)
    for name, splits in (("pics", {"train": 20, "val": 2, "test": 2}), ("more", {"train": 20, "val": 2})):
        for split, n in splits.items():
            for label in "abc":
                folder = root / name / split / label
                folder.mkdir(parents=True)
                for i in range(n):
                    Image.fromarray(generator.integers(0, 256, (6, 6), dtype=np.uint8)).save(folder / f"{i:02}.png")
    few = {"name": "folder:~/datasets/pics", "per_class": 2, "channels": 1, "batch_size": 8, "normalize": "none"}
    more = {**few, "name": "folder:~/datasets/more", "per_class": 3, "subset_seed": 0}
    teacher = {key: value for key, value in tables(data=more, teacher=None).items() if key != "run"}
    teacher["run"] = {"name": "teacher", "epochs": 1, "base": str(TESTS)}
    save(tmp_path / "tiny.toml", tables(data=few, teacher={"recipe": teacher}))
    save(tmp_path / "full.toml", {"experiments": [{"name": "plan", "minutes": 1, "data": ["pics", "more"]}]})
    return root


def test_a_pack_gives_the_same_samples_as_the_whole_set(scripts: Any, packed: Path, tmp_path: Path):
    pack = scripts["pack"].main
    there = tmp_path / "there"
    assert pack(["plan", "--root", str(packed), "--to", "plan.tar.gz"]) == 0
    assert pack(["--unpack", "plan.tar.gz", "--root", str(there)]) == 0
    (entry,) = scripts["_full"].tier()
    read = 0
    for run, other in zip(*(entry.experiment(tmp_path, None, [], r).plan.runs() for r in (packed, there)), strict=True):
        pairs = [(run.recipe, other.recipe)]
        if run.recipe.teacher is not None:
            pairs.append(tuple(type(run.recipe).from_dict(r.recipe.teacher.recipe) for r in (run, other)))
        for here, away in pairs:
            assert here.data.name != away.data.name
            a, b = (load_data(recipe.data, seed=recipe.run.seed, base=recipe.base) for recipe in (here, away))
            assert a.info == b.info, "its fingerprint too"
            for split in a.splits:
                ids = a.passes.ids(split)
                assert ids.tolist() == b.passes.ids(split).tolist()
                for x, y in zip(a.passes.once(ids), b.passes.once(ids), strict=True):
                    assert x.input.equal(y.input)
                    assert x.target.equal(y.target)
                    read += len(x.input)
    assert read == 4 * (6 + 6 + 6) + 2 * (9 + 6), "two arms, two seeds; the teacher's samples for one arm"
    full_size = [p for p in there.rglob("*.png") if p.read_bytes().strip(b"\0")]
    assert len(list(there.rglob("*.png"))) == len(list(packed.rglob("*.png"))) == 138
    assert all(p.read_bytes() == (packed / p.relative_to(there)).read_bytes() for p in full_size)
    # Seeds 3 and 4 choose up to 12 of 60; the teacher 9; each of val and test whole; and the first sample of a folder.
    assert len(full_size) <= 12 + 12 + 1 + 9 + 6 + 1


def test_a_file_that_was_not_packed_cannot_be_read(scripts: Any, packed: Path, tmp_path: Path):
    pack = scripts["pack"].main
    assert pack(["plan", "--root", str(packed), "--to", "plan.tar.gz"]) == 0
    assert pack(["--unpack", "plan.tar.gz", "--root", "there"]) == 0
    (entry,) = scripts["_full"].tier()
    recipe = entry.experiment(tmp_path, None, ["data.per_class=20"], tmp_path / "there").plan.runs()[0].recipe
    with pytest.raises(StillhouseError, match=r"there/pics/train/./..\.png"):
        load_data(recipe.data, seed=3, base=recipe.base)


def test_what_another_pack_brought_stays(scripts: Any, packed: Path, tmp_path: Path):
    pack = scripts["pack"].main
    assert pack(["plan", "--root", str(packed), "--to", "a.tar.gz", "--set", "run.seed=50"]) == 0
    assert pack(["plan", "--root", str(packed), "--to", "b.tar.gz"]) == 0
    for archive in ("a.tar.gz", "b.tar.gz"):
        assert pack(["--unpack", archive, "--root", "there"]) == 0
    for archive in ("a.tar.gz", "b.tar.gz"):
        with tarfile.open(archive) as opened:
            names = [name for name in opened.getnames() if name != "listing.json"]
        assert all((tmp_path / "there" / n).read_bytes() == (packed / n).read_bytes() for n in names)


def test_bad_packs_are_refused(
    scripts: Any, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pack = scripts["pack"].main

    def refused(message: str, *arguments: str) -> None:
        assert pack([*arguments]) == 2
        assert message in capsys.readouterr().err

    ordinary = ("plan", "--root", str(packed), "--to", "plan.tar.gz")
    with monkeypatch.context() as patch:
        patch.setattr(scripts["pack"], "LIMIT", 1000)
        refused("MiB, 0.0 too many (more 0.0, pics 0.0) (lower data.per_class or data.limit", *ordinary)
    save(tmp_path / "full.toml", {"experiments": [{"name": "plan", "minutes": 1, "data": ["pics"]}]})
    refused("full.toml: plan: 'more' is read, and not among its `data`", *ordinary)
    assert not list(tmp_path.glob("plan.tar.gz*")), "nothing half-written"
    refused("there is no folder", "plan", "--root", "nowhere")
    refused("nothing.tar.gz: cannot be unpacked", "--unpack", "nothing.tar.gz")
    with tarfile.open("other.tar.gz", "w:gz") as other:
        other.add("page.md")
    refused("other.tar.gz: has no listing", "--unpack", "other.tar.gz")
    Path("listing.json").write_text(json.dumps([["../evil", 3, 0]]))
    with tarfile.open("evil.tar.gz", "w:gz") as evil:
        evil.add("listing.json")
    refused("names a file outside of its folder: '../evil'", "--unpack", "evil.tar.gz", "--root", "there")
    assert not (tmp_path / "evil").exists()
