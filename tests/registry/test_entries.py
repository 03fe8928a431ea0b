"""Entry points: how authors get them wrong, each told in one message, and names that two distributions bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stillhouse import StillhouseError
from stillhouse.cli import main
from stillhouse.config.task import TaskSpec
from stillhouse.entries import DATA, PLUGINS, find, find_scheme, installed
from stillhouse.registry.plugins import from_instances, load, plugins_in_use
from stillhouse.tasks.builder import build_task

GOOD = '''
from stillhouse import Plugin, plugin

@plugin
class Good(Plugin):
    """A plugin from elsewhere."""
    size: int = 3
'''
TASK = """
import attrs
from stillhouse.tasks import Classification

@attrs.frozen(kw_only=True)
class Mine(Classification):
    pass
"""


def fault_of(use: str) -> str:
    with pytest.raises(StillhouseError) as caught:
        load(use)
    (fault,) = caught.value.faults
    return str(fault)


@pytest.mark.parametrize(
    ("point", "source", "says"),
    [
        (
            "badattr_a:Goood",
            GOOD,
            "cannot be imported: module 'badattr_a' has no attribute 'Goood', did you mean 'Good'?",
        ),
        ("inst_a:thing", GOOD + "thing = Good()", "is inst_a:thing, an instance; its class would be inst_a:Good"),
        ("plain_a:Good", "class Good: pass", "must be a subclass of stillhouse.Plugin, got plain_a:Good"),
        ("module_a", GOOD, "must be a subclass of stillhouse.Plugin, got module_a"),
        ("unreadable_a:Good", "class Good(:", "cannot be imported: SyntaxError"),
        (
            "engine_a:Good",
            GOOD.replace("size: int", "engine = '>=2'\n    size: int"),
            "needs version >=2 of the contract, and stillhouse 0.1.0 has version 1; it is too new: update stillhouse",
        ),
        (
            "text_a:Good",
            GOOD.replace("size: int", "requires = 'links'\n    size: int"),
            "cannot be imported: plugin class Good: requires must be a tuple of names, got the text 'links' "
            "(write `requires = ('links',)`)",
        ),
    ],
)
def test_a_wrong_entry_point_is_told_so(
    fake_distribution: Any, capsys: pytest.CaptureFixture[str], point: str, source: str, says: str
):
    fake_distribution("some-dist", {"mine": point}, source)
    text = fault_of("mine")
    assert text.startswith(f"the plugin 'mine' {says}")
    assert "(from some-dist 1.0" in text
    assert main(["plugins", "--check"]) == 1
    assert f"some-dist 1.0: the plugin 'mine' {says}"[:100] in capsys.readouterr().out


def test_a_missing_module_a_bad_name_and_a_bad_value_are_told_so(fake_distribution: Any):
    site = fake_distribution("some-dist", {"My Plugin": "spaced_a:Good", "gone": "gone_a:Good"}, GOOD)
    (site / "gone_a.py").unlink()
    assert "the plugin 'gone' cannot be imported: ModuleNotFoundError: No module named 'gone_a'" in fault_of("gone")
    assert fault_of("My Plugin") == (
        "the plugin 'My Plugin' has an entry point whose name must be letters, digits, - and _, a letter first "
        "(from some-dist 1.0)"
    )
    other = fake_distribution("other-dist", {"value": "not a path"}, "")
    assert other.exists()
    assert "has the entry point 'not a path', which must be package.module:attribute" in fault_of("value")


def test_a_package_that_is_half_removed_harms_nothing(fake_distribution: Any):
    site = fake_distribution("some-dist", {"mine": "half_a:Good"}, GOOD)
    fake_distribution("other-dist", {"mine": "half_b:Good"}, GOOD)
    (site / "some_dist-1.0.dist-info" / "METADATA").unlink()
    assert {found.distribution for found in installed() if found.use == "mine"} == {"", "other-dist"}


def test_a_wrong_group_is_named(fake_distribution: Any, capsys: pytest.CaptureFixture[str]):
    fake_distribution("some-dist", {"mine": "group_a:Good"}, GOOD, group="stillhouse.plugin")
    assert fault_of("mine") == (
        "no installed plugin is called 'mine' "
        "(some-dist 1.0 brings it in the group 'stillhouse.plugin': did you mean 'stillhouse.plugins'?)"
    )
    assert main(["plugins", "--json"]) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out) if row["distribution"] == "some-dist"]
    assert row["status"] == "unknown group 'stillhouse.plugin'; did you mean 'stillhouse.plugins'?"
    assert main(["plugins", "--check"]) == 1


def test_a_distribution_without_a_description_is_described_by_its_class(
    fake_distribution: Any, capsys: pytest.CaptureFixture[str]
):
    site = fake_distribution("some-dist", {"mine": "nodesc_a:Good"}, GOOD)
    metadata = next(site.glob("*.dist-info")) / "METADATA"
    metadata.write_text("\n".join(line for line in metadata.read_text().splitlines() if "Summary" not in line))
    assert [found.summary for found in installed() if found.use == "mine"] == [""]
    main(["plugins", "--check", "--json"])
    (row,) = [row for row in json.loads(capsys.readouterr().out) if row["use"] == "mine"]
    assert (row["summary"], row["status"]) == ("A plugin from elsewhere.", "ok")


@pytest.fixture
def two(fake_distribution: Any) -> None:
    """Two distributions that bring the plugin ``twice``, and one of them another."""
    fake_distribution("one-dist", {"twice": "one_dist:Good", "once": "one_dist:Good"}, GOOD)
    fake_distribution("Two_Dist", {"twice": "two_dist:Good"}, GOOD)


def test_a_name_of_two_distributions_is_refused_with_the_lines_to_write(two: None):
    assert fault_of("twice") == (
        "the plugin 'twice' is brought by Two_Dist and one-dist (write 'Two_Dist:twice' or 'one-dist:twice')"
    )
    assert load("once")[1].distribution == "one-dist"


def test_the_list_of_plugins_names_clashes(two: None, capsys: pytest.CaptureFixture[str]):
    assert main(["plugins"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "is brought by" in line]
    assert line.endswith("(write 'Two_Dist:twice' or 'one-dist:twice')")


@pytest.mark.parametrize("use", ["Two_Dist:twice", "two-dist:twice"])
def test_the_distribution_says_which_of_the_two(two: None, use: str):
    (active,) = plugins_in_use([{"use": use, "size": 5}])
    assert (active.name, active.use, active.distribution, active.plugin.size) == ("twice", "twice", "Two_Dist", 5)
    assert active.table == {"use": use, "name": "twice", "size": 5}
    (again,) = from_instances([active.plugin])
    assert again.table["use"] == "Two_Dist:twice"


def test_a_distribution_that_brings_no_such_name_is_taken_for_a_path(two: None):
    with pytest.raises(StillhouseError, match=r"must be package\.module:attribute"):
        load("one-dist:zzz")


def test_a_ready_list_and_overrides_name_a_clashing_plugin_alike(two: None, tmp_path: Path):
    from stillhouse import load_recipe

    (tmp_path / "r.toml").write_text('data.name = "sklearn:digits"\nstudent.model = "mlp"\n')
    recipe = load_recipe(tmp_path / "r.toml", plugins="one-dist:twice,logits", overrides=["plugins.twice.size=7"])
    assert recipe.plugins == ({"use": "one-dist:twice", "size": 7}, {"use": "logits"})


def test_a_task_from_elsewhere_is_found_by_name_and_by_distribution(fake_distribution: Any):
    fake_distribution("task-dist", {"mine": "task_a:Mine"}, TASK, group="stillhouse.tasks")
    assert type(build_task(TaskSpec(name="mine"))).__name__ == "Mine"
    assert type(build_task(TaskSpec(name="task-dist:mine"))).__name__ == "Mine"
    assert type(build_task(TaskSpec(name="task_a:Mine"))).__name__ == "Mine"
    assert type(build_task(TaskSpec(name="stillhouse:classification"))).__name__ == "Classification"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nothing_of_this_name", "task.name: the task 'mine' cannot be imported: ModuleNotFoundError"),
        ("class Mine: pass", "must be a subclass of stillhouse.tasks.Task"),
    ],
)
def test_a_broken_task_is_named_and_harms_no_other(fake_distribution: Any, source: str, says: str):
    fake_distribution("task-dist", {"mine": f"task_{abs(hash(source))}:Mine"}, source, group="stillhouse.tasks")
    with pytest.raises(StillhouseError) as caught:
        build_task(TaskSpec(name="mine"))
    assert says in str(caught.value)
    assert type(build_task(TaskSpec())).__name__ == "Classification"


def test_an_unknown_task_is_told_the_nearest():
    with pytest.raises(StillhouseError) as caught:
        build_task(TaskSpec(name="clasification"))
    text = "task.name: no installed task is called 'clasification' (did you mean 'classification'?)"
    assert str(caught.value).startswith(text[:-2])


def test_what_a_name_begins_with_is_found_with_the_rest(fake_distribution: Any):
    fake_distribution("data-dist", {"folder": "data_a:open_it"}, "", group="stillhouse.data")
    assert find_scheme(DATA, "zzz:x") is None
    with pytest.raises(StillhouseError, match="'folder' is brought by data-dist and stillhouse"):
        find_scheme(DATA, "folder:a:b")
    found, rest = find_scheme(DATA, "data-dist:folder:a:b") or (None, "")
    assert found is not None
    assert (found.distribution, rest) == ("data-dist", "a:b")


def test_a_distribution_that_appears_later_is_found(fake_distribution: Any):
    assert all(found.use != "late" for found in installed())
    fake_distribution("late-dist", {"late": "late_a:Good"}, GOOD)
    assert find(PLUGINS, "late").distribution == "late-dist"


def test_one_plugin_is_described(fake_distribution: Any, capsys: pytest.CaptureFixture[str]):
    source = '''
from stillhouse import Plugin, Schedule, Weight, hookimpl, plugin

@plugin
class Full(Plugin):
    """Pulls features together.

    Options:
        strength: how hard.
    """
    requires = ("teacher",)
    before = ("projector",)
    provides = ("pull",)
    engine = ">=1,<2"
    weight: Weight = Schedule(peak=2.0)
    strength: float = 0.5
    layers: tuple[str, ...]

    @hookimpl
    def losses(self, step):
        return {}
'''
    readme = "# pull\n\nPulls what belongs together.\n\n## More\n\nNot shown.\n"
    fake_distribution("pull-dist", {"pull": "pull_a:Full"}, source, readme=readme)
    assert main(["plugins", "pull", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    options = {option["name"]: option for option in told["options"]}
    assert options["strength"] == {"name": "strength", "type": "a number", "default": 0.5}
    assert options["weight"]["default"]["peak"] == 2.0
    assert "default" not in options["layers"]
    assert (told["requires"], told["before"], told["provides"]) == (["teacher"], ["projector"], ["pull"])
    assert (told["after"], told["conflicts"], told["engine"]) == ([], [], ">=1,<2")
    assert told["hooks"] == ["losses"]
    assert told["description"].startswith("Pulls features together.")
    assert told["readme"] == "# pull\n\nPulls what belongs together."
    assert main(["plugins", "pull-dist:pull"]) == 0
    text = capsys.readouterr().out
    for part in ("pull-dist 1.0", "Pulls features together.", "strength", "must be given", "teacher", "losses"):
        assert part in text
    assert "Not shown" not in text
    assert main(["plugins", "pul"]) == 2
    assert "no installed plugin is called 'pul'" in capsys.readouterr().err
