"""The documentation says what is so: keys, hooks and help are generated, links resolve, recipes load, plugins train, errors are real.

``python tests/test_docs.py`` writes the generated parts anew: what stands between ``<!-- generated: ... -->`` and
``<!-- end -->``.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import sys
import tomllib
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import attrs
import pytest
import torch
from support.imports import ROOT, docstring_of, is_public, modules
from support.pages import DOCUMENTED, PAGES, SHOWN, block, documented, fences, prose, short
from support.reference import plain, reference

from stillhouse import Recipe, load_recipe, prepare, train
from stillhouse.cli import main
from stillhouse.cli.common import collect_overrides
from stillhouse.cli.parser import make_parser
from stillhouse.config.learning_rate import LearningRateSchedule
from stillhouse.config.recipe_file import read_tables
from stillhouse.config.run import CheckpointSpec, DistributedSpec, OptimizerSpec, RunSpec
from stillhouse.config.run_options import CompileArgs, EarlyStoppingSpec, EmaSpec, SpeedSpec, WatchSpec
from stillhouse.config.structure import describe_type, unstructure
from stillhouse.config.teacher import TeacherSpec
from stillhouse.contract.hookspecs import SPECIFICATIONS, hook_arguments
from stillhouse.data import DataSpec
from stillhouse.entries import TASKS, installed
from stillhouse.models import ModelSpec
from stillhouse.registry.plugins import load, plugins_in_use
from stillhouse.schedule import Schedule
from stillhouse.tasks import Classification, TaskSpec
from stillhouse.tasks.builder import load_task
from stillhouse.training.explanation import describe, render_text

SPECS = {
    kind.__name__: kind
    for kind in (
        RunSpec,
        DataSpec,
        ModelSpec,
        TaskSpec,
        Classification,
        TeacherSpec,
        OptimizerSpec,
        Schedule,
        LearningRateSchedule,
        CheckpointSpec,
        DistributedSpec,
        SpeedSpec,
        CompileArgs,
        EmaSpec,
        EarlyStoppingSpec,
        WatchSpec,
    )
}
TASK_KINDS = {task.use: load_task(task) for task in installed(TASKS)}

_BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def attribute_texts(kind: type) -> dict[str, str]:
    """The section Attributes of a class's docstring."""
    lines = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name:
            found[name] += " " + line.strip()
    return {key: plain(text) for key, text in found.items()}


def keys_table(kind: type) -> str:
    """A spec's keys: type, default, meaning; those of the spec that it is built on have a table of their own."""
    hints, texts = typing.get_type_hints(kind), attribute_texts(kind)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in attrs.fields(kind):
        if kind is LearningRateSchedule and field.inherited:
            continue
        cells = (f"`{field.alias}`", describe_type(hints[field.name]), default_text(field), texts[field.name])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def default_text(field: attrs.Attribute[Any]) -> str:
    """A key's default as TOML has it."""
    value = field.default
    if value is attrs.NOTHING:
        return "required"
    if isinstance(value, attrs.Factory):
        value = value.factory()
    if value is None:
        return "none"
    return f"`{json.dumps(unstructure(value))}`"


def options_table(distribution: str) -> str:
    """The options of every plugin that a distribution brings, but for the name: default and meaning."""
    rows = ["| method | option | default | meaning |", "|---|---|---|---|"]
    for found in installed():
        if found.distribution == distribution:
            kind, _ = load(found.use)
            texts = {name: text.replace("|", "\\|") for name, text in attribute_texts(kind).items()}
            fields = [field for field in attrs.fields(kind) if field.name != "name"]
            rows += [f"| `{found.use}` | `{f.name}` | {default_text(f)} | {texts[f.name]} |" for f in fields]
    return "\n".join(rows)


def hooks_list(group: type) -> str:
    """A group's hooks, each with its arguments and its contract."""
    parts = []
    for name, function in vars(group).items():
        if name in hook_arguments():
            call = f"{name}({', '.join(hook_arguments()[name])})"
            parts.append(f"### `{call}`\n\n{plain(inspect.getdoc(function) or '')}")
    return "\n\n".join(parts)


def help_text(*command: str) -> str:
    """What ``--help`` prints at 80 columns."""
    parser = make_parser()
    for word in command:
        choices = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
        parser = choices[word]
    return "```text\n" + parser.format_help().rstrip() + "\n```"


def modules_table() -> str:
    """The public modules, each with the first line of its docstring."""
    public = sorted(name for name in modules() if name.partition(".")[0] == "stillhouse" and is_public(name))
    lines = ((name, plain(docstring_of(name).splitlines()[0]).replace("|", "\\|")) for name in public)
    return "\n".join(["| module | what it is |", "|---|---|", *(f"| `{name}` | {line} |" for name, line in lines)])


GENERATORS: dict[str, Callable[..., str]] = {
    "modules": modules_table,
    "reference": reference,
    "keys": lambda name: keys_table({**SPECS, **{kind.__name__: kind for kind in TASK_KINDS.values()}}[name]),
    "hooks": lambda name: hooks_list(next(g for g in SPECIFICATIONS if g.__name__ == name)),
    "help": help_text,
    "options": options_table,
}


def regenerated(text: str) -> str:
    """A page with its generated parts as they should be."""

    def fill(match: re.Match[str]) -> str:
        kind, *arguments = match[2].split()
        return f"{match[1]}\n{GENERATORS[kind](*arguments)}\n\n{match[3]}"

    return _BLOCK.sub(fill, text)


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("path", sorted((ROOT / "docs/recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_explained_before_anything_is_trained(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path))
    training = prepare(Recipe.load(path), write=False, train_teacher=False)
    assert "loss" in render_text(describe(training))
    training.close()
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("path", sorted((ROOT / "docs/recipes").rglob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_one(path: Path):
    assert Recipe.load(path).run.name == path.stem


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_generated_parts_are_up_to_date(page: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = page.read_text(encoding="utf-8")
    assert text == regenerated(text), "run `python tests/test_docs.py`"


def test_every_key_of_a_recipe_is_explained():
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for name, kind in SPECS.items():
        assert f"generated: keys {name} " in text
        assert attribute_texts(kind).keys() >= {
            a.name for a in attrs.fields(kind) if kind is not LearningRateSchedule or not a.inherited
        }
    for table in attrs.fields(Recipe):
        assert f"[{table.name}]" in text, table.name


def test_every_task_and_its_options_are_explained():
    text = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    for task, kind in TASK_KINDS.items():
        assert f"| `{task}` |" in text
        assert f"generated: keys {kind.__name__} " in text
        assert attribute_texts(kind).keys() >= {
            a.name for a in attrs.fields(kind) if kind is not LearningRateSchedule or not a.inherited
        }


def test_the_task_of_the_page_trains(tmp_path: Path):
    from support import recipe

    (tmp_path / "turned.py").write_text(block("docs/tasks.md", "python", "class Turned"))
    whole = recipe(
        task={"name": "turned:Turned"},
        teacher=None,
        data__name="sklearn:digits",
        run__base=str(tmp_path),
        run__epochs=1,
    )
    result = train(whole, write=False)
    assert result.metrics["val"]["accuracy"] > 0.3  # four to choose from
    prediction = sys.modules["turned"].Turned().prediction(None, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert prediction == {"degrees": 90}


def test_the_reference_names_what_is_there():
    assert len(SHOWN) > 80
    for name in SHOWN:
        module, _, attribute = name.rpartition(".")
        assert name in modules() or hasattr(import_module(module), attribute), name


def test_every_hook_stands_there_with_its_exact_arguments():
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    shown = re.findall(r"^### `(\w+)\((.*)\)`$", text, re.MULTILINE)
    assert {name: tuple(filter(None, arguments.split(", "))) for name, arguments in shown} == hook_arguments()


def test_the_commands_page_has_every_command():
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    (commands,) = [a.choices for a in make_parser()._actions if isinstance(a.choices, dict)]
    assert all(f"<!-- generated: help {name} -->" in text for name in commands)


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


def install(make: Callable[..., Path], use: str) -> str:
    """Install a plugin that a page writes as its own pyproject.toml would; returns its code."""
    source, about = documented(use)
    project = tomllib.loads(about)["project"]
    make(project["name"], project["entry-points"]["stillhouse.plugins"], source, project["version"])
    return source


@pytest.fixture
def documented_plugins(fake_distribution: Callable[..., Path]) -> Iterator[dict[str, str]]:
    """The plugins that the first run and the tutorial write, installed."""
    yield {use: install(fake_distribution, use) for use in DOCUMENTED}
    for use in DOCUMENTED:
        sys.modules.pop(f"stillhouse_{use}", None)


def test_recipes_in_the_pages_load(documented_plugins: dict[str, str], tmp_path: Path):
    whole = {"data": {"name": "sklearn:digits"}, "student": {"model": "stillhouse.models:convnet"}}
    recipes = [(page, text) for page, text in fences("toml") if "project" not in tomllib.loads(text)]
    assert len(recipes) > 10
    for page, text in recipes:
        tables = tomllib.loads(text)
        if "include" in tables:
            absolute = {**tables, "include": [str(ROOT / "docs/recipes" / name) for name in tables["include"]]}
            (tmp_path / "recipe.json").write_text(json.dumps(absolute))
            tables = read_tables(tmp_path / "recipe.json")
        teacher = tables.get("teacher", {})
        if isinstance(teacher.get("recipe"), str):
            assert (ROOT / "docs/recipes" / teacher["recipe"]).exists(), short(page)
        try:
            plugins_in_use(Recipe.from_dict({**whole, **tables}, base=ROOT / "docs/recipes").plugins)
        except Exception as error:
            error.add_note(f"in {short(page)}:\n{text}")
            raise


def test_the_shipped_recipes_load_and_the_first_run_shows_one_of_them():
    for path in (ROOT / "docs/recipes").glob("*.toml"):
        Recipe.load(path)
    shipped = tomllib.loads((ROOT / "docs/recipes/digits-vkd.toml").read_text(encoding="utf-8"))
    assert tomllib.loads(block("docs/first-run.md", "toml", 'name = "digits-vkd"')) == shipped


def test_python_blocks_are_python():
    found = list(fences("python"))
    assert len(found) > 5
    for page, text in found:
        compile(text, short(page), "exec")


def test_what_the_python_of_the_pages_imports_of_ours_is_there(documented_plugins: dict[str, str]):
    for page, text in fences("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stillhouse"):
                module = import_module(node.module or "")
                for name in node.names:
                    assert hasattr(module, name.name), f"{short(page)}: {node.module} has no {name.name}"


def test_the_documented_plugins_are_short_and_train(documented_plugins: dict[str, str]):
    from support import FEATURES, recipe

    for use, options in (("similarity", {"weight": 2.0}), ("center", {"momentum": 0.5})):
        assert sum(bool(line.strip()) for line in documented_plugins[use].splitlines()) <= 40
        links = {**FEATURES, "distance": "none" if use == "similarity" else "mse"}
        result = train(recipe(links, {"use": use, **options}, {"use": "projector"}), write=False)
        assert use in result.summary["plugins"]
        assert result.metrics["val"]["loss"] > 0


def test_the_tutorials_own_test_passes(documented_plugins: dict[str, str], tmp_path: Path):
    module = ModuleType("tutorial_test")
    exec(compile(block("docs/writing-a-plugin.md", "python", "def test_"), "tutorial", "exec"), vars(module))
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test(**dict.fromkeys(inspect.signature(test).parameters, tmp_path))


def run_block(page: str, part: str) -> dict[str, Any]:
    """Run the Python block of ``page`` that contains ``part``; its names."""
    module = sys.modules["documented"] = ModuleType("documented")  # where annotations are looked up
    exec(compile(block(page, "python", part), page, "exec"), vars(module))
    return vars(sys.modules.pop("documented"))


def test_the_other_plugins_of_the_pages_train():
    from support import FEATURES, recipe

    from stillhouse_features import Features

    mimic = run_block("docs/writing-a-plugin.md", "class Mimic")["Mimic"](right_only=True)
    quiet = run_block("docs/writing-a-plugin.md", "class Quiet")["Quiet"](layer="body")
    watch = run_block("docs/hooks.md", "class Watch")["Watch"]()
    pair = Features(links=FEATURES["links"], distance="none")
    peer = TeacherSpec(model="support:TinyNet", random=True)
    beside = run_block("docs/writing-a-plugin.md", "class Beside")["Beside"](peer=peer)
    assert train(recipe(), plugins=[mimic, quiet, pair, watch, beside], write=False).summary["plugins"] == [
        "mimic",
        "quiet",
        "features",
        "watch",
        "beside",
    ]


def test_the_guides_mean_teacher_averages_parameters_and_copies_statistics():
    from support import recipe

    guide = block("docs/writing-a-plugin.md", "python", "class MeanTeacher")
    method = (ROOT / "tests/methods/mean_teacher.py").read_text(encoding="utf-8")
    hooks = guide[guide.index("    @hookimpl") :]
    assert hooks == method[method.index("    @hookimpl") :]  # which is compared with a loop by hand
    made = run_block("docs/writing-a-plugin.md", "class MeanTeacher")["MeanTeacher"](decay=0.5)
    training = prepare(recipe(teacher=None), plugins=[made], write=False)
    training.fit()
    average, student = training.run.module(training.run.plugins[0]), training.run.student
    assert torch.equal(average.norm.running_mean, student.norm.running_mean)
    assert int(average.norm.num_batches_tracked) == int(student.norm.num_batches_tracked) > 0
    assert not torch.equal(average.head.weight, student.head.weight)


def test_the_python_of_the_pages_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from support import FEATURES, recipe

    monkeypatch.chdir(tmp_path)
    whole = recipe(FEATURES, {"use": "projector"}, run__epochs=4)
    Path("digits-vkd.toml").write_text(whole.to_toml())
    assert run_block("docs/events.md", "Phase.BACKWARD_COMPLETED")["result"].metrics["val"]
    assert "'task': " in capsys.readouterr().out
    assert run_block("docs/recipes.md", "load_recipe")["result"].summary["epochs"] == 5
    assert run_block("docs/your-data.md", "data=TensorDataset")["result"].metrics["val"]


def test_the_functions_of_the_export_page_run_each_format(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    from support import FIVE, TinyNet, recipe, tiny_data

    from stillhouse import export, load_student

    train(recipe(*FIVE.values(), data__normalize="data"), out=tmp_path / "run")
    page = run_block("docs/export.md", "def run_pt2")
    about = run_block("docs/export.md", "def about_onnx")
    x = tiny_data()["test"].tensors[0]
    found = {}
    for suffix in ("pt2", "onnx", "safetensors"):
        path = tmp_path / f"student.{suffix}"
        metadata = export(tmp_path / "run", path).metadata
        x_hat = (x - metadata["mean"][0]) / metadata["std"][0]
        more = [TinyNet()] if suffix == "safetensors" else []
        found[suffix] = page[f"run_{'weights' if more else suffix}"](path, x_hat, *more)
    assert about["about_onnx"](str(tmp_path / "student.onnx")) == metadata
    assert about["about_weights"](str(tmp_path / "student.safetensors")) == metadata
    with torch.no_grad():
        wanted = load_student(tmp_path / "run")(x_hat)
    for suffix, logits in found.items():
        torch.testing.assert_close(torch.as_tensor(logits), wanted, rtol=1e-4, atol=1e-5, msg=suffix)


def test_every_plugins_main_option_is_on_the_commands_page():
    from stillhouse.contract.plugin import option_names

    text = " ".join((ROOT / "docs/commands.md").read_text(encoding="utf-8").split())
    listed = text.partition("sets the plugin's main option: ")[2].partition(". ")[0]
    for found in installed():
        if not found.distribution.startswith("stillhouse-"):
            continue
        kind, _ = load(found.use)
        words = re.search(rf"`(\w+)` for (?:\w+ and )?{found.use}\b", listed)
        assert (words[1] if words else None) == (kind.shorthand if kind.shorthand in option_names(kind) else None)


def shell_commands() -> Iterator[tuple[Path, list[str]]]:
    """Every ``stillhouse`` command of the shell blocks, with its page; ``torchrun -m stillhouse`` is one too."""
    for page, text in fences("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\$\w+", "1", re.split(r"[|&>]", line)[0]), comments=True)
            if "stillhouse" in words:
                yield page, words[words.index("stillhouse") + 1 :]


def test_the_commands_of_the_pages_are_commands_and_change_keys_that_recipes_have(
    documented_plugins: dict[str, str], at_root: None, capsys: pytest.CaptureFixture[str]
):
    found = list(shell_commands())
    assert {short(page) for page, _ in found} >= {"README.md", "docs/first-run.md", "docs/commands.md"}
    for page, words in found:
        try:
            arguments = make_parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{short(page)}: stillhouse {shlex.join(words)}: {capsys.readouterr().err}")
        path = Path(getattr(arguments, "recipe", None) or "")
        if path.parts[:1] == ("docs",) and path.suffix == ".toml":
            recipe = load_recipe(path, overrides=collect_overrides(arguments), plugins=arguments.plugins)
            plugins_in_use(recipe.plugins, recipe.base)


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


def commands_in(text: str) -> tuple[list[str], list[str]]:
    """The command of a console block as arguments, and the lines it is said to print."""
    command, *printed = text.replace("\\\n", " ").splitlines()
    words = shlex.split(command.removeprefix("$ "))
    return words, [line for line in printed if line.strip() not in ("", "...")]


def test_errors_in_the_pages_are_what_the_command_says(at_root: None, capsys: pytest.CaptureFixture[str]):
    shown = [(page, text) for page, text in fences("console") if re.search("^error: ", text, re.MULTILINE)]
    assert len(shown) > 5
    for page, text in shown:
        (program, *arguments), printed = commands_in(text)
        assert program == "stillhouse", text
        assert main(arguments) == 2, text
        assert capsys.readouterr().err.splitlines() == printed, short(page)


def masked(line: str) -> str:
    """A line without numbers, and with runs of spaces as one."""
    return " ".join(re.sub(r"\d[\d.,e-]*", "#", line).split())


def test_explanations_in_the_pages_are_what_the_command_says(at_root: None, capsys: pytest.CaptureFixture[str]):
    blocks = [text for language in ("console", "text") for _, text in fences(language)]
    shown = [text for text in blocks if text.startswith("$ stillhouse explain") and "error:" not in text]
    assert len(shown) > 1
    for text in shown:
        (_, *arguments), printed = commands_in(text)
        assert main(arguments) == 0
        lines = iter([masked(line) for line in capsys.readouterr().out.splitlines()])
        for line in printed:
            assert masked(line) in lines, line


def test_the_page_on_runs_names_every_file_key_and_tag(tmp_path: Path):
    from support import FIVE, recipe
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = (ROOT / "docs/runs.md").read_text(encoding="utf-8")
    train(recipe(*FIVE.values(), checkpoints={"keep_every": 1, "every_steps": 2}), out=tmp_path / "run")
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


if __name__ == "__main__":
    os.environ["COLUMNS"] = "80"
    for each in PAGES:
        before = each.read_text(encoding="utf-8")
        after = regenerated(before)
        if after != before:
            each.write_text(after, encoding="utf-8")
            print(short(each))
