"""The pages say what is there: links resolve, indexes are whole, pictures name files, runs have the files that are named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import FIVE, recipe
from support.imports import ROOT
from support.pages import PAGES, prose, short

from stillhouse import train
from stillhouse.contract.hookspecs import hook_arguments

_LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_every_benchmark_is_in_the_index():
    text = (ROOT / "docs/benchmarks/index.md").read_text(encoding="utf-8")
    for script in (ROOT / "tests/benchmarks").glob("[a-z]*.py"):
        assert f"`{script.stem}`" in text, script.name


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_relative_links_resolve(page: Path):
    for target in _LINK.findall(prose(page)):
        assert "://" not in target, f"{target}: name the source instead of an address"
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in slugs(there), target


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_pages_name_no_place_on_somebodys_machine(page: Path):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(work|opt|root|home|tmp)/", text)


def test_the_readme_is_short_and_begins_with_its_readers_and_a_picture():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first, *more = text.split("\n## ")
    assert len(text.splitlines()) <= 150
    assert len(first.splitlines()) <= 25
    assert re.search(r"^!\[.+\]\(docs/assets/.+\.svg\)$", first, re.MULTILINE)
    assert more[0].startswith("Two commands\n")
    assert "\nmake demo " in more[0]
    assert "\nmake test " in more[0]


def drawn(picture: str, kind: str) -> list[tuple[str, str]]:
    """What a picture of the design page says in texts of class ``kind``, each with the id of its group."""
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(ROOT / "docs/assets" / picture).getroot()
    return [
        (group.get("id", ""), "".join(part.itertext()))
        for group in (root, *root.findall(f"{svg}g"))
        for text in group.findall(f"{svg}text")
        if text.get("class") == kind
        for part in text.findall(f"{svg}tspan") or [text]
    ]


def test_the_pictures_of_the_design_name_files_and_hooks_that_there_are():
    engine = ROOT / "engine/src/stillhouse"
    floors = drawn("floors.svg", "file")
    assert {floor for floor, _ in floors} == {"ground", *(p.parent.name for p in engine.glob("*/__init__.py"))}
    for floor, file in floors:
        assert (engine / ("" if floor == "ground" else floor) / file).exists(), (floor, file)
    stations = drawn("batch.svg", "file")
    assert len(stations) > 15
    for station, file in stations:
        assert (engine / file).exists(), (station, file)
    hooks = {name for _, names in drawn("batch.svg", "hook") for name in names.split(", ")}
    assert hooks <= {*hook_arguments()}
    of_a_step = {name for name, arguments in hook_arguments().items() if "step" in arguments}
    assert of_a_step <= hooks


def test_the_page_on_runs_names_every_file_key_and_tag(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = (ROOT / "docs/runs.md").read_text(encoding="utf-8")
    checkpoints = {"keep_every": 1, "every_steps": 2}
    train(recipe(*FIVE.values(), run__figures=True, checkpoints=checkpoints), out=tmp_path / "run")
    for path in (tmp_path / "run").rglob("*"):
        if path.is_dir() and "tensorboard" in path.parts[:-1]:
            continue  # a step's or a link's
        name = re.sub(r"\d+", "STEP", path.name) if path.suffix == ".pt" else path.name.split(".out.")[0]
        assert name in text, path.name
    for file in ("summary.json", "lock.json"):
        for key in json.loads((tmp_path / "run" / file).read_text()):
            assert f"`{key}`" in text, (file, key)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for tag in (*events.Tags()["scalars"], *events.Tags()["images"], *events.Tags()["histograms"]):
        assert f"`{tag.split('/')[0]}/" in text, tag
