"""Finding, loading and ordering plugins."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse import Plugin, Recipe, StillhouseError, load_recipe, plugin
from stillhouse.entries import installed
from stillhouse.errors import UnknownKindWarning
from stillhouse.registry.order import Active, order
from stillhouse.registry.plugins import activate, from_instances, load, plugins_in_use


def make(name: str, **variables: Any) -> Active:
    """An active plugin of its own class."""
    cls = plugin(type(name.title(), (Plugin,), {"__module__": __name__, **variables}))
    return Active(cls(name=name), name, 0)


def names(actives: list[Active]) -> list[str]:
    return [a.name for a in actives]


def test_without_demands_the_list_is_the_order():
    assert names(order([make("c"), make("a"), make("b")])) == ["c", "a", "b"]


def test_a_plugin_moves_back_only_as_far_as_it_must():
    ordered = order([make("projector", after=("normalizer",)), make("features"), make("normalizer"), make("logits")])
    assert names(ordered) == ["features", "normalizer", "projector", "logits"]
    reasons = {a.name: a.reason for a in ordered}
    assert reasons["projector"] == "listed as number 1, moved: projector declares after = normalizer"
    assert "others moved" in reasons["features"]


def test_before_and_after_mean_kinds_and_instances_alike():
    two = [
        make("late", after=("projector",)),
        Active(make("deep").plugin, "projector", 1),
        make("first", before=("deep",)),
    ]
    assert names(order(two)) == ["first", "deep", "late"]


def test_demands_on_plugins_that_are_not_active_do_not_matter():
    assert names(order([make("a", after=("zzz",)), make("b", before=("yyy",))])) == ["a", "b"]


def test_a_cycle_is_spelled_out():
    with pytest.raises(StillhouseError) as caught:
        order([make("a", after=("b",)), make("b", after=("c",)), make("c", after=("a",)), make("d")])
    text = str(caught.value)
    assert "cannot be put in order" in text
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        assert f"{name} declares after = {other}" in text
    assert "d " not in text


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8), st.permutations(range(6)))
def test_any_demands_that_can_be_met_are_met_and_the_same_list_gives_the_same_order(edges: Any, listed: Any):
    edges = {(a, b) for a, b in edges if a < b}  # a before b: never a cycle

    def build() -> list[Active]:
        return [make(f"p{i}", before=tuple(f"p{b}" for a, b in edges if a == i)) for i in listed]

    result = names(order(build()))
    assert sorted(result) == [f"p{i}" for i in range(6)]
    assert all(result.index(f"p{a}") < result.index(f"p{b}") for a, b in edges)
    assert result == names(order(build()))
    # Nobody stands later than the list and the demands ask for: of those that may come next, the first listed does.
    place = {f"p{i}": n for n, i in enumerate(listed)}
    for n, name in enumerate(result):
        waiting = result[n + 1 :]
        free = [w for w in waiting if not any((f"p{a}", f"p{b}") == (x, w) for a, b in edges for x in result[n:])]
        assert all(place[name] < place[w] for w in free)


def test_needs_conflicts_and_double_names_are_all_said_at_once():
    with pytest.raises(StillhouseError) as caught:
        activate(
            [
                make("projector", requires=("links",)),
                make("logits", requires=("teacher",)),
                make("a", conflicts=("b",)),
                make("b"),
                make("b"),
                make("task"),
            ],
            has_teacher=False,
        )
    text = str(caught.value)
    assert "needs 'links', which no active plugin provides (add { use = \"features\"" in text
    assert "needs a teacher, and the run has none" in text
    assert "cannot be active together with 'b'" in text
    assert "two plugins are called 'b'" in text
    assert "'task' is the name of the task's own loss" in text


def test_a_capability_can_come_from_any_plugin_and_be_refused_by_any():
    maker = make("other", provides=("links",))
    ordered = activate([make("projector", requires=("links",)), maker], has_teacher=False)
    assert names(ordered) == ["other", "projector"]
    assert "projector requires links, which other provides" in ordered[1].reason
    with pytest.raises(StillhouseError, match="cannot be active together with 'other'"):
        activate([make("alone", conflicts=("links",)), maker], has_teacher=False)


@pytest.mark.parametrize("name", ["a.b", "a/b", "", "1st", "a b", "é"])
def test_a_name_that_cannot_be_a_module_key_is_refused(name: str):
    active = make("x")
    import attrs

    with pytest.raises(StillhouseError, match="cannot name a plugin"):
        activate([attrs.evolve(active, plugin=attrs.evolve(active.plugin, name=name))], has_teacher=True)


@pytest.mark.parametrize("name", ["type", "keys", "forward", "training", "pop", "parameters"])
def test_names_that_nn_module_has_itself_are_fine(name: str):
    from support import recipe

    from stillhouse import prepare

    table = {"use": "spectral", "layer": "body", "rank": 1, "method": "warm", "name": name}
    training = prepare(recipe(table), write=False)
    assert name in [a.name for a in training.actives]


def test_an_order_against_a_near_miss_is_warned_about():
    with pytest.warns(UnknownKindWarning, match="'x' names a kind 'projectr'.*'projector'"):
        activate([make("x", after=("projectr",)), make("projector")], has_teacher=True)


def test_a_conflict_with_a_near_miss_is_warned_about():
    with pytest.warns(UnknownKindWarning, match="'x' names a kind 'logit'.*'logits'"):
        activate([make("x", conflicts=("logit",))], has_teacher=True)


def test_a_conflict_with_a_capability_is_none_with_a_kind_of_like_spelling():
    activate([make("x", conflicts=("live teacher",)), make("live_teachers")], has_teacher=True)


def test_a_need_that_is_nearly_a_capability_is_told_so():
    with pytest.raises(StillhouseError, match=r"needs 'link', which no active plugin provides \(did you mean 'links'"):
        activate([make("x", requires=("link",))], has_teacher=True)


GOOD = '''
from stillhouse import Plugin, plugin

@plugin
class Good(Plugin):
    """A plugin from elsewhere."""
    size: int = 3
'''


def test_installed_plugins_are_listed_from_metadata_and_loaded_on_demand(fake_distribution: Any):
    fake_distribution("some-dist", {"good": "some_good:Good"}, GOOD)
    (found,) = [p for p in installed() if p.use == "good"]
    assert (found.distribution, found.version, found.summary) == ("some-dist", "1.0", "what some-dist does")
    assert "some_good" not in sys.modules
    (active,) = plugins_in_use([{"use": "good", "size": 4}])
    assert (active.name, active.plugin.size, active.distribution) == ("good", 4, "some-dist")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "import nothing_of_this_name",
            "cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("raise SystemExit(3)", "cannot be imported: SystemExit"),
        ("x = 1", "has no attribute 'Good'"),
        ("Good = 3", "must be a subclass of stillhouse.Plugin"),
        ("from stillhouse import Plugin\nclass Good(Plugin): pass", "lacks the decorator @plugin"),
        (GOOD.replace("size: int", "engine = '>=9'\n    size: int"), "needs version >=9 of the contract"),
        (GOOD.replace("size: int = 3", "def losses(self, step): pass"), "'losses' is a hook's name, without @hookimpl"),
    ],
)
def test_a_broken_plugin_is_an_error_that_names_it_and_harms_no_other(fake_distribution: Any, source: str, says: str):
    fake_distribution("bad-dist", {"bad": f"bad_{abs(hash(source))}:Good"}, source)
    with pytest.raises(StillhouseError) as caught:
        plugins_in_use([{"use": "bad"}, {"use": "logits"}])
    assert str(caught.value).startswith("plugins[0].use (bad): the plugin 'bad'")
    assert says in str(caught.value)
    assert load("logits")[1].use == "logits"


def test_a_plugin_is_named_by_the_path_of_its_class_too(tmp_path: Path):
    (tmp_path / "beside_it.py").write_text(GOOD.replace("Good", "GoodEnough"))
    (tmp_path / "r.toml").write_text(
        """
        data.name = "sklearn:digits"
        student.model = "stillhouse.models:mlp"
        [[plugins]]
        use = "beside_it:GoodEnough"
        """
    )
    loaded = Recipe.load(tmp_path / "r.toml", overrides=["plugins.good_enough.size=5"])
    (active,) = plugins_in_use(loaded.plugins, loaded.base)
    assert (active.name, active.use, active.plugin.size) == ("good_enough", "beside_it:GoodEnough", 5)
    # Nothing installed it: its file's content stands for the version, in the run's lock.
    assert active.version.startswith("file ")
    chosen = load_recipe(tmp_path / "r.toml", plugins="good_enough,logits")
    assert [table["use"] for table in chosen.plugins] == ["beside_it:GoodEnough", "logits"]


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ("wrong_here:Good", "module 'wrong_here' not found"),
        ("right_here:God", "has no attribute 'God' (did you mean 'Good'?)"),
        ("just_here:x", "must be a subclass of stillhouse.Plugin, got just_here:x"),
    ],
)
def test_a_path_that_leads_to_no_plugin_is_an_error(tmp_path: Path, use: str, says: str):
    (tmp_path / f"{use.partition(':')[0].replace('wrong', 'other')}.py").write_text(GOOD + "x = 1")
    with pytest.raises(StillhouseError) as caught:
        plugins_in_use([{"use": use}], tmp_path)
    assert str(caught.value).startswith(f"plugins[0].use ({use})")
    assert says in str(caught.value)


def test_a_second_provider_stays_where_it_is_listed():
    one, two = make("one", provides=("links",)), make("two", provides=("links",))
    assert names(order([one, make("projector", requires=("links",)), two])) == ["one", "projector", "two"]


def test_a_name_brought_by_two_distributions_is_refused(fake_distribution: Any):
    for dist in ("one-dist", "two-dist"):
        fake_distribution(dist, {"twice": f"{dist.replace('-', '_')}:Good"}, GOOD)
    with pytest.raises(StillhouseError, match="'twice' is brought by one-dist and two-dist"):
        load("twice")


def test_unknown_plugins_and_options_are_said_at_once():
    with pytest.raises(StillhouseError) as caught:
        plugins_in_use([{"use": "fetures"}, {"use": "logits", "temprature": 2.0}, {"name": "x"}])
    lines = str(caught.value).splitlines()
    assert lines[0] == "plugins[0].use (fetures): no installed plugin is called 'fetures' (did you mean 'features'?)"
    assert lines[1] == "plugins[1].temprature (logits): unknown key 'temprature' (did you mean 'temperature'?)"
    assert lines[2].startswith("plugins[2].use: this key is missing")


def test_a_class_from_python_goes_by_its_entry_points_name():
    cls, _ = load("logits")

    @plugin
    class MyOwnPlugin(Plugin):
        """Not installed."""

    logits, own = from_instances([cls(temperature=2.0), MyOwnPlugin()])
    assert (logits.name, logits.use, logits.distribution) == ("logits", "logits", "stillhouse-logits")
    assert (own.name, own.use, own.distribution) == ("my_own_plugin", "my_own_plugin", "")
    with pytest.raises(StillhouseError, match="must be a plugin, got"):
        from_instances([cls])


def test_a_class_without_the_decorator_is_told_the_line_to_write():
    class Bare(load("logits")[0]):
        """What a subclass inherits is no option of its own."""

    for one in (Bare(), type("Bare", (Plugin,), {})()):
        with pytest.raises(StillhouseError, match=r"must be a plugin, got .*write `@plugin` above `class Bare\(...\)`"):
            from_instances([one])


@pytest.mark.parametrize("weight", [float("inf"), float("nan"), -1.0, {"peak": -1.0}, {"final": float("inf")}])
def test_a_weight_that_is_none_is_refused(weight: Any):
    with pytest.raises(StillhouseError, match=r"plugins\[0\].weight.*must be finite( and >= 0)?, got"):
        activate(plugins_in_use([{"use": "logits", "weight": weight}]), has_teacher=True)


def test_importing_stillhouse_and_listing_plugins_imports_neither_torch_nor_a_plugin():
    code = (
        "import sys, stillhouse, stillhouse.cli; stillhouse.cli.main(['plugins', '--json']); "
        "bad = [m for m in sys.modules if m == 'torch' or m.startswith('stillhouse_')]; assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"use": "features"' in done.stdout


def test_the_lists_order_stays_where_none_would_be_wrong():
    """To project first and to standardise first are two methods, both published."""
    wanted = ("normalizer", "projector")
    for tables in itertools.permutations([{"use": "projector"}, {"use": "normalizer"}, {"use": "logits"}]):
        actives = plugins_in_use([{"use": "features", "links": [{"student": "a", "teacher": "a"}]}, *tables])
        ordered = [n for n in names(activate(actives, has_teacher=True)) if n in wanted]
        assert ordered == [table["use"] for table in tables if table["use"] in wanted]
