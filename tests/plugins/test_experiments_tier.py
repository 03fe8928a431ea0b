"""The full tier: its file, runs cut short and gone on with, what the small tier chose, and packs of its data."""

from __future__ import annotations

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
from support.experiments import TINY, make_home, save_plan

from stillhouse import StillhouseError
from stillhouse.cli import main
from stillhouse.data import load_data
from stillhouse.experiments import plan_runs
from stillhouse_experiments import pack as packs
from stillhouse_experiments import page
from stillhouse_experiments.choices import taken
from stillhouse_experiments.home import Home
from stillhouse_experiments.runner import Limits
from stillhouse_experiments.tier import table, tier

ROOT = Path(__file__).parents[2]
PLAN: dict[str, Any] = {
    **TINY,
    "arms": [
        {"name": "none", "plugins": []},
        {"name": "one", "plugins": [FEATURES, {"use": "projector", "kind": "linear"}]},
    ],
}
TUNE = {"plugins.features.weight": [0.1, 1.0]}
PLACE = "<!-- results: plan-full -->\nNot run yet: needs a GPU.\n<!-- end -->\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A folder of experiments with a plan, a tier and a page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "machine", lambda: "none")
    home = make_home(tables())
    (home.folder / "page.md").write_text(PLACE)
    save_plan(home, PLAN)
    save_tier(home, {"name": "plan", "minutes": 5, "seeds": 3})
    return home


def save_tier(home: Home, *entries: dict[str, Any]) -> None:
    home.tier.write_text(tomli_w.dumps({"experiments": list(entries)}), encoding="utf-8")


def full(*more: str) -> int:
    return main(["experiment", "--tier", "full", "--set", "run.device=cpu", "--jobs", "1", *more])


def summaries() -> dict[str, str]:
    return {str(path): path.read_text() for path in Path("runs").rglob("summary.json")}


def test_every_experiment_of_the_tier_is_a_plan_and_has_a_place():
    real = Home(ROOT / "docs/experiments", ROOT / "docs/experiments")
    written = (real.pages / "full.md").read_text(encoding="utf-8")
    entries = tier(real)
    places = [written.index(f"<!-- results: {entry.block} -->\n") for entry in entries]
    assert places == sorted(places)
    for entry in entries:
        experiment = entry.experiment(real, Path("out"))
        assert {run.recipe.run.device for run in experiment.plan.runs()} == {"cuda"}
        assert experiment.plan.folder == Path("out") / entry.block
    assert table(real) in written, "stillhouse experiment --tier full --list writes it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([{"name": "plan", "minutes": 2, "seed": 3}], "unknown key 'seed'.*'seeds'"),
        ([{"name": "plan", "minutes": 2}, {"name": "plan", "minutes": 2}], "'plan' is there twice"),
        ([{"name": "plan", "minutes": 20.5}], "20.5 minutes, and all together may take 20"),
        ([{"name": "plan", "minutes": 2, "jobs": 0}], "jobs: must be >= 1, got 0"),
    ],
)
def test_what_is_wrong_with_the_tier_is_named(home: Home, change: Any, message: str):
    save_tier(home, *change)
    with pytest.raises(StillhouseError, match=f"docs/experiments/full.toml: .*{message}"):
        tier(home)


def test_bad_names_and_absent_tiers_are_refused(home: Home, capsys: pytest.CaptureFixture[str]):
    assert full("plane") == 2
    assert (
        "error: docs/experiments/full.toml: the full tier has no 'plane' (did you mean 'plan'?)"
        in capsys.readouterr().err
    )
    assert (home.pages / "page.md").read_text() == PLACE
    home.tier.unlink()
    assert full() == 2
    assert "error: docs/experiments/full.toml: cannot be read" in capsys.readouterr().err


def test_the_list_of_the_tier_is_written_into_its_page(home: Home, capsys: pytest.CaptureFixture[str]):
    written = home.pages / "page.md"
    written.write_text("<!-- results: full-tier -->\n<!-- end -->\n")
    assert full("--list") == 0
    assert "| plan | 3 seeds | 8 | 5 | none |" in written.read_text()
    assert "| plan | 3 seeds | 8 | 5 | none |" in capsys.readouterr().out


def test_no_run_is_begun_when_time_is_over_and_the_next_call_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert full("--minutes", "0") == 0
    assert not summaries()
    assert "0 of 6 runs are finished; the same command goes on" in capsys.readouterr().err
    assert "Not run to an end yet: 0 of 6 runs are finished." in (home.pages / "page.md").read_text()

    def until_after(runs: int) -> None:
        # No teacher is trained here: time is looked at once for each of the 6 runs by the teachers' walk, then by the runs'.
        clock = itertools.count()
        monkeypatch.setattr(Limits, "of", classmethod(lambda cls, jobs, _: cls(jobs, 6 + runs)))
        monkeypatch.setattr(plan_runs, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    monkeypatch.setattr(plan_runs, "_train_teachers", lambda runs, progress: list(runs))
    with monkeypatch.context() as patch:
        until_after(5)
        assert full() == 0
        patch.undo()
    before = summaries()
    assert len(before) == 5, "two whole seeds, and one arm of the third"
    text = (home.pages / "page.md").read_text()
    assert "Seeds 3 to 4." in text
    assert "Not finished yet: 3 seeds are planned." in text
    assert json.loads((home.results / "plan-full.json").read_text())["missing"] == []
    monkeypatch.setattr(Limits, "of", classmethod(lambda cls, jobs, _: cls(jobs, None)))
    assert full() == 0
    after = summaries()
    assert len(after) == 6
    assert before.items() <= after.items(), "finished runs are kept as they were"
    text = (home.pages / "page.md").read_text()
    assert "Seeds 3 to 5." in text
    assert "Not finished" not in text
    assert "`stillhouse experiment plan --tier full --jobs 1 --set run.device=cpu`" in text


def test_what_the_small_tier_chose_is_taken(home: Home, tmp_path: Path):
    arms = [PLAN["arms"][0], {**PLAN["arms"][1], "tune": TUNE}]
    save_plan(home, PLAN, arms=arms, tuning={"seeds": [1000], "shared": {"optimizer.lr": [0.1, 0.2]}})
    (entry,) = tier(home)
    experiment = entry.experiment(home, tmp_path)
    numbers = tmp_path / "plan.json"
    assert taken(experiment, numbers) is None
    common = {"metric": "val/accuracy", "seeds": [1000], "tried": []}
    lr = {**common, "arm": "none", "shared": True, "chosen": {"optimizer.lr": 0.2}}
    weight = {**common, "arm": "one", "shared": False, "chosen": {"plugins.features.weight": 0.1}}
    numbers.write_text(json.dumps({"chosen": [lr, weight]}))
    given = taken(experiment, numbers)
    assert given is not None
    found, choices = given
    assert [choice.chosen for choice in choices] == [lr["chosen"], weight["chosen"]]
    assert {arm.recipe.optimizer.lr for arm in found.plan.arms} == {0.2}
    assert found.plan.arms[1].recipe.plugins[0]["weight"] == 0.1
    for other in ([lr], [weight], [lr, {**weight, "chosen": {"plugins.features.weight": 7.0}}]):
        numbers.write_text(json.dumps({"chosen": other}))
        assert taken(experiment, numbers) is None, "the plan leaves open what these numbers do not tell"


# --- packs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(home: Home, tmp_path: Path) -> Path:
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
    recipe = tables(data=few, teacher={"recipe": teacher})
    (home.plans / "recipes" / "tiny.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    save_tier(home, {"name": "plan", "minutes": 1, "data": ["pics", "more"]})
    return root


def pack(root: Path, to: str, *more: str) -> int:
    return main(["experiment", "plan", "--data", str(root), "--pack", to, *more])


def unpack(archive: str, root: str | Path) -> int:
    return main(["experiment", "--unpack", archive, "--data", str(root)])


def test_a_pack_gives_the_same_samples_as_the_whole_set(home: Home, packed: Path, tmp_path: Path):
    there = tmp_path / "there"
    assert pack(packed, "plan.tar.gz") == 0
    assert unpack("plan.tar.gz", there) == 0
    (entry,) = tier(home)
    read = 0
    runs = (entry.experiment(home, tmp_path).with_data(root).plan.runs() for root in (packed, there))
    for run, other in zip(*runs, strict=True):
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
    # Seeds 3 and 4 choose up to 12 of 60; the teacher 9; each of val and test whole; the first sample of a folder, and
    # those whose headers say how deep its images are.
    assert len(full_size) <= 12 + 12 + 9 + 6 + 2 * 32


def test_a_file_that_was_not_packed_cannot_be_read(home: Home, packed: Path, tmp_path: Path):
    assert pack(packed, "plan.tar.gz") == 0
    assert unpack("plan.tar.gz", "there") == 0
    (entry,) = tier(home)
    experiment = entry.experiment(home, tmp_path, None, ["data.per_class=20"]).with_data(tmp_path / "there")
    recipe = experiment.plan.runs()[0].recipe
    with pytest.raises(StillhouseError, match=r"there/pics/train/./..\.png"):
        load_data(recipe.data, seed=3, base=recipe.base)


def test_what_another_pack_brought_stays(home: Home, packed: Path, tmp_path: Path):
    assert pack(packed, "a.tar.gz", "--set", "run.seed=50") == 0
    assert pack(packed, "b.tar.gz") == 0
    for archive in ("a.tar.gz", "b.tar.gz"):
        assert unpack(archive, "there") == 0
    for archive in ("a.tar.gz", "b.tar.gz"):
        with tarfile.open(archive) as opened:
            names = [name for name in opened.getnames() if name != "listing.json"]
        assert all((tmp_path / "there" / n).read_bytes() == (packed / n).read_bytes() for n in names)


def test_bad_packs_are_refused(
    home: Home, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refused(message: str, code: int) -> None:
        assert code == 2
        assert message in capsys.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr(packs, "LIMIT", 1000)
        refused(
            "MiB, 0.0 too many (more 0.0, pics 0.0) (lower data.per_class or data.limit", pack(packed, "plan.tar.gz")
        )
    save_tier(home, {"name": "plan", "minutes": 1, "data": ["pics"]})
    refused("docs/experiments/full.toml: plan: 'more' is read, and not among its `data`", pack(packed, "plan.tar.gz"))
    assert not list(tmp_path.glob("plan.tar.gz*")), "nothing half-written"
    refused("folder not found", pack(tmp_path / "nowhere", "plan.tar.gz"))
    refused("nothing.tar.gz: cannot be unpacked", unpack("nothing.tar.gz", "there"))
    with tarfile.open("other.tar.gz", "w:gz") as other:
        other.add(home.pages / "page.md")
    refused("other.tar.gz: must be a pack of an experiment, and has no listing", unpack("other.tar.gz", "there"))
    Path("listing.json").write_text(json.dumps([["../evil", 3, 0]]))
    with tarfile.open("evil.tar.gz", "w:gz") as evil:
        evil.add("listing.json")
    refused("names a file outside of its folder: '../evil'", unpack("evil.tar.gz", "there"))
    assert not (tmp_path / "evil").exists()
    refused("--pack: packs the files of one plan, got 0", main(["experiment", "--pack", "all.tar.gz"]))
    refused("--unpack: takes no plan, got 'plan'", main(["experiment", "plan", "--unpack", "plan.tar.gz"]))
