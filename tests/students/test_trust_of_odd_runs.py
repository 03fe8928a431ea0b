"""A stranger's run's folder that lacks files, or whose links lead out of it, is as little trusted as a whole one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tomli_w
from support import recipe

from stillhouse import StillhouseError, train
from stillhouse.cli import main
from stillhouse.config.recipe_file import read_tables

pytestmark = pytest.mark.usefixtures("strangers")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which everything is registered."""
    folder = tmp_path_factory.mktemp("run") / "ours"
    data = {"name": "sklearn:digits", "batch_size": 64, "per_class": 8}
    train(recipe(data=data, student={"model": "mlp", "args": {"width": 4}}, teacher=None, run__epochs=1), out=folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "stranger")


def edit(folder: Path, table: str, key: str, value: object) -> Path:
    told = read_tables(folder / "recipe.toml")
    told[table][key] = value
    (folder / "recipe.toml").write_text(tomli_w.dumps(told))
    return folder / "recipe.toml"


@pytest.mark.parametrize("left", ["summary.json", "composition.txt", "history.jsonl", "checkpoints", "a dangling link"])
def test_a_run_without_its_lock_names_no_code(run: Path, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "sprung.py").write_text("import pathlib\npathlib.Path(__file__).with_name('sprung').touch()")
    file = edit(run, "run", "base", ".")
    edit(run, "student", "model", "sprung:net")
    for path in run.iterdir():
        if path.name not in ("recipe.toml", "sprung.py", left):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left == "a dangling link":
        (run / "lock.json").symlink_to("nowhere")
    for words in (["train", str(file), "--out", str(run), "--resume"], ["explain", str(file)]):
        assert main(words) == 2
        assert "'sprung:net' is code that no installed package registers" in capsys.readouterr().err
    assert not (run / "sprung").exists()


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "history.jsonl", ".training.json"])
def test_a_run_that_goes_on_writes_through_no_link_out_of_its_folder(
    run: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = run.parent / "mine" / name
    outside.parent.mkdir()
    if (run / name).exists():
        (run / name).rename(outside)
    else:
        outside.write_text("precious")
    (run / name).symlink_to(outside)
    (run / "summary.json").unlink()
    file = edit(run, "run", "epochs", 2)

    def content() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in outside.parent.rglob("*") if p.is_file()}

    before = content()
    again = ["train", str(file), "--out", str(run), "--resume", "--quiet"]
    assert main(again) == 2
    said = capsys.readouterr().err
    assert f"{run / name}: is a link out of the run's folder, to {outside}" in said
    assert content() == before
    if name == "tensorboard":
        monkeypatch.setenv("STILLHOUSE_TRUST", str(run.parent))
        assert main(again) == 0
        assert content() != before


def test_links_to_a_run_and_inside_it_are_followed(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints").rename(run / "kept")
    (run / "checkpoints").symlink_to("kept")
    (tmp_path / "link").symlink_to(run)
    (run / "summary.json").unlink()
    file = edit(run, "run", "epochs", 2)
    assert main(["train", str(file), "--out", str(tmp_path / "link"), "--resume", "--quiet"]) == 0
    with pytest.raises(StillhouseError, match="exists already"):
        train(recipe(), out=tmp_path / "link")


@pytest.mark.parametrize("name", ["CIFAR10", "FashionMNIST", "SVHN"])
def test_a_stranger_does_not_choose_where_a_download_goes(
    run: Path, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    edit(run, "data", "name", f"torchvision:{name}")
    edit(run, "data", "args", {"root": str(tmp_path / "mine"), "download": True})
    assert main(["evaluate", str(run)]) == 2
    said = capsys.readouterr().err
    assert f"torchvision:{name} would be downloaded to {tmp_path / 'mine'}, and is not run because" in said
    assert not (tmp_path / "mine").exists()
