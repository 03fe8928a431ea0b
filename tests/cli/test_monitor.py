"""``stillhouse monitor``: which folders, under which names, at which port; and what it says where it cannot."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from support import FEATURES, recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stillhouse import StillhouseError, train
from stillhouse.cli.hparams_page import find_columns
from stillhouse.cli.monitor import find_events, launch


def make(folder: Path, content: bytes = b"") -> Path:
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1.host").write_bytes(content)
    return folder


def read_hparams(folder: Path) -> dict[str, bytes]:
    """What a run has written for the page HParams."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        tag: each.plugin_data.content for tag, each in events.summary_metadata.items() if tag.startswith("_hparams")
    }


def make_empty(folder: Path) -> Path:
    (folder / "links").mkdir()
    return folder / "links"


def test_names_are_what_tells_the_runs_apart(tmp_path: Path):
    for arm in ("with", "alone"):
        for seed in (0, 1):
            make(tmp_path / "runs" / "ablation" / arm / f"seed-{seed}" / "tensorboard")
    names = ["alone/seed-0", "alone/seed-1", "with/seed-0", "with/seed-1"]
    assert list(find_events([tmp_path])) == names
    found = find_events([tmp_path / "runs" / "ablation" / arm for arm in ("with", "alone")])
    assert sorted(found) == names
    assert list(find_events([tmp_path / "runs" / "ablation" / "with" / "seed-1"])) == ["seed-1"]


def test_a_folder_that_is_not_there_and_one_without_events_are_said(tmp_path: Path):
    with pytest.raises(StillhouseError, match="no such folder"):
        find_events([tmp_path / "nowhere"])
    with pytest.raises(StillhouseError, match="no run here has written events"):
        find_events([tmp_path])


def test_a_port_in_use_and_one_that_is_none_are_said(tmp_path: Path):
    found = {"a": make(tmp_path / "a")}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StillhouseError, match="--port: TensorBoard cannot be served") as caught:
            launch(found, make_empty(tmp_path), taken.getsockname()[1])
    assert "leave --port out" in str(caught.value)
    with pytest.raises(StillhouseError, match="must be from 1 to 65535, got 70000"):
        launch(found, tmp_path, 70000)
    (tmp_path / "b").touch()
    with pytest.raises(StillhouseError, match="no links to the runs can be made"):
        launch(found, tmp_path / "b")


def test_a_runs_first_page_is_served_under_its_short_name(tmp_path: Path):
    train(recipe(), out=tmp_path / "runs" / "tiny")
    url = launch(find_events([tmp_path]), make_empty(tmp_path))

    def ask(path: str) -> object:
        with urllib.request.urlopen(f"{url}data/{path}", timeout=30) as answer:
            return json.load(answer)

    for _ in range(100):
        if ask("runs"):
            break
        time.sleep(0.1)
    assert ask("runs") == ["tiny"]
    layout = ask("plugin/custom_scalars/layout")
    assert [category["title"] for category in layout["category"]] == [
        "Is it learning?",
        "Which plugin does what?",
        "What does it cost?",
        "Is something sick?",
    ]
    costs = {chart["title"].rpartition(", ")[2] for chart in layout["category"][2]["chart"]}
    assert costs == {"ms", "MB", "%", "images/s"}
    shown = ask("plugin/custom_scalars/scalars?run=tiny&tag=%5Egradient_norm/.*%24")
    assert list(shown["tag_to_events"]) == ["gradient_norm/task"]


def test_hparams_have_what_differs_between_the_runs_and_what_only_one_of_them_has(tmp_path: Path):
    for name, plugins, lr in (("alone", [], 1e-2), ("with", [FEATURES | {"weight": 2.0}], 2e-2)):
        train(recipe(*plugins, optimizer={"lr": lr}, teacher__args={"width": 4}), out=tmp_path / name)

    def columns(*names: str) -> tuple[dict[str, list[str]], list[str]]:
        settings, metrics = find_columns({name: read_hparams(tmp_path / name) for name in names})
        chosen_from = {info.name: list(info.domain_discrete) for info in settings}
        return chosen_from, [info.name.tag for info in metrics]

    settings, metrics = columns("alone", "with")
    assert sorted(settings) == ["features.weight", "optimizer.lr", "plugins", "with features"]
    assert settings["with features"] == ["no", "yes"]
    assert metrics[:2] == ["val/accuracy", "test/accuracy"]
    assert len(set(metrics)) == len(metrics) > 2
    assert {"arm", "seed", "student", "with features"} <= set(columns("with")[0]), "one run has nothing to differ from"
    url = launch(find_events([tmp_path / "alone", tmp_path / "with"]), make_empty(tmp_path))
    asked = urllib.request.Request(f"{url}data/plugin/hparams/experiment", b"{}", {"Content-Type": "application/json"})
    for _ in range(100):
        with urllib.request.urlopen(asked, timeout=30) as answer:
            served = [info["name"] for info in json.load(answer).get("hparamInfos", ())]
        if served == list(settings):
            break
        time.sleep(0.1)
    assert served == list(settings)
