"""@plugin: what it makes of a class, and what it refuses because attrs and pluggy would let it pass."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import attrs
import pytest

from stillhouse import Plugin, Schedule, StillhouseError, Weight, hookimpl, plugin


@plugin
class Sample(Plugin):
    """A plugin with options of every kind."""

    after = ("normalizer",)
    kind: Literal["linear", "mlp"] = "linear"
    width: int = 4
    rate: float = 0.5
    on: bool = True
    layers: tuple[str, ...] = ()
    limit: int | None = None
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step: Any) -> dict[str, Any]:
        return {}


def test_options_are_keyword_only_and_frozen():
    sample = Sample(kind="mlp", layers=["a", "b"], rate=2)
    assert (sample.kind, sample.layers, sample.rate) == ("mlp", ("a", "b"), 2.0)
    assert isinstance(sample.rate, float)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        sample.width = 5
    with pytest.raises(TypeError):
        Sample("mlp")


def test_equal_options_are_not_the_same_plugin():
    assert Sample() != Sample()
    assert len({Sample(), Sample()}) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "liner"}, "kind: must be one of 'linear', 'mlp', got 'liner' (did you mean 'linear'?)"),
        ({"width": 3.7}, "width: must be a whole number, got 3.7"),
        ({"width": True}, "width: must be a whole number, got True"),
        ({"width": "3"}, "width: must be a whole number, got '3'"),
        ({"on": "no"}, "on: must be true or false, got 'no'"),
        ({"on": 1}, "on: must be true or false, got 1"),
        ({"rate": "0.5"}, "rate: must be a number, got '0.5'"),
        ({"layers": "body"}, "layers: must be a list of text, got 'body'"),
        ({"layers": ["a", 1]}, "layers[1]: must be text, got 1"),
        ({"limit": 0.5}, "limit: must be a whole number, got 0.5"),
        ({"weight": "high"}, "weight: must be a number or a table with peak"),
        ({"weight": {"peek": 2.0}}, "weight.peek: unknown key 'peek' (did you mean 'peak'?)"),
        ({"weight": {"warmup": 2.0}}, "weight.warmup: must be in [0, 1], got 2.0"),
    ],
)
def test_options_are_not_coerced_from_python_either(options: dict[str, Any], says: str):
    with pytest.raises(StillhouseError) as caught:
        Sample(**options)
    assert str(caught.value).startswith(says)


def test_a_weight_may_follow_a_schedule():
    assert Sample(weight={"peak": 2.0, "warmup": 0.5}).weight == Schedule(peak=2.0, warmup=0.5)
    assert Sample(weight=3).weight == 3.0


def refused(**body: Any) -> str:
    """What @plugin says of a class with this body."""
    with pytest.raises(StillhouseError) as caught:
        plugin(type("Wrong", (Plugin,), {"__module__": __name__, **body}))
    return str(caught.value)


def takes(*names: str) -> Any:
    scope: dict[str, Any] = {}
    exec(f"def f(self{''.join(', ' + n for n in names)}): return None", scope)
    return scope["f"]


def test_a_hook_without_its_decorator_is_refused():
    assert "'transform' is a hook's name, without @hookimpl" in refused(transform=takes("step"))


def test_an_override_of_a_hook_without_the_decorator_is_refused():
    with pytest.raises(StillhouseError, match="'losses' is a hook's name, without @hookimpl"):

        @plugin
        class Child(Sample):
            """Overrides a hook and forgets to say so."""

            def losses(self, step):
                return {}


@pytest.mark.parametrize(
    ("name", "right"), [("tranform", "transform"), ("loses", "losses"), ("optimiser_options", "optimizer_options")]
)
def test_a_misspelt_hook_is_refused_with_the_right_name(name: str, right: str):
    assert f"unknown hook {name!r} (did you mean {right!r}" in refused(**{name: hookimpl(takes("step"))})


def test_a_misspelt_undecorated_hook_is_refused_with_the_right_name():
    text = refused(tranform=takes("step"))
    assert "'tranform' looks like the hook 'transform'" in text


def test_helpers_are_let_be():
    made = plugin(
        type(
            "Fine",
            (Plugin,),
            {"__module__": __name__, "_transform": takes("step"), "helper": takes("x"), "describe": takes()},
        )
    )
    assert made().name == ""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"transform": hookimpl(takes("stp"))}, "the hook 'transform' has no argument 'stp' (it offers: step)"),
        (
            {"adapt": hookimpl(takes("run", "student"))},
            "the hook 'adapt' has no argument 'run' (write `def adapt(self, assembly, student):`",
        ),
        (
            {"started": hookimpl(takes("assembly"))},
            "the hook 'started' has no argument 'assembly' (write `def started(self, run):`",
        ),
        ({"losses": hookimpl(takes("run", "step"))}, "the hook 'losses' has no argument 'run' (it offers: step)"),
        ({"transform": hookimpl(tryfirst=True)(takes("step"))}, "asks for tryfirst or trylast (order plugins"),
        ({"transform": hookimpl(trylast=True)(takes("step"))}, "asks for tryfirst or trylast"),
        ({"transform": hookimpl(wrapper=True)(takes("step"))}, "'transform' is a wrapper (only teacher_forward"),
        ({"teacher_forward": hookimpl(hookwrapper=True)(takes("step"))}, "old-style hookwrapper"),
        ({"my_losses": hookimpl(specname="losses")(takes("step"))}, "uses specname"),
        ({"kind": "linear"}, "the option 'kind' has no annotation (write `kind: TYPE = ...`)"),
        ({"requries": ("links",)}, "no annotation (write `requries: TYPE = ...`; did you mean 'requires'?)"),
        (
            {"after": ("x",), "__annotations__": {"after": "tuple[str, ...]"}},
            "'after' is a class variable and is annotated",
        ),
        ({"x": 1, "__annotations__": {"x": "Missing"}}, "an annotation cannot be resolved: name 'Missing'"),
        ({"losses": hookimpl(takes("step"))}, "a plugin that gives losses needs the option 'weight'"),
        ({"weight": 1.0, "__annotations__": {"weight": "float"}}, "'weight' scales losses, and this plugin gives none"),
        ({"losses": 1, "__annotations__": {"losses": "int"}}, "the option 'losses' would hide the hook"),
    ],
)
def test_what_attrs_and_pluggy_would_let_pass_is_refused(body: dict[str, Any], says: str):
    assert says in refused(**body)


def test_every_fault_of_a_class_is_said_at_once():
    text = refused(kind="linear", transform=takes("step"), loses=hookimpl(takes("step")))
    assert len(text.splitlines()) == 3


def test_class_variables_and_constants_are_let_be():
    made = plugin(
        type(
            "Fine",
            (Plugin,),
            {
                "__module__": __name__,
                "after": ("x",),
                "_table": {1: 2},
                "LIMIT": 3,
                "__annotations__": {"LIMIT": ClassVar[int]},
            },
        )
    )
    assert made.after == ("x",)
    assert [a.name for a in attrs.fields(made)] == ["name"]


def test_only_subclasses_of_plugin_can_be_one():
    with pytest.raises(StillhouseError, match=r"subclasses of stillhouse\.Plugin"):
        plugin(int)


@pytest.mark.parametrize("name", ["before", "after", "requires", "provides", "conflicts"])
def test_names_given_as_text_or_as_a_list_are_refused_with_the_line_to_write(name: str):
    assert f"{name} must be a tuple of names, got the text 'links' (write `{name} = ('links',)`)" in refused(
        **{name: "links"}
    )
    assert f"{name} must be a tuple of names, got ['a', 'b'] (write `{name} = ('a', 'b',)`)" in refused(
        **{name: ["a", "b"]}
    )


def test_versions_and_shorthands_are_text():
    assert "engine must be text, got 1" in refused(engine=1)
    assert "engine must be a version specifier, got '1' (write `engine = '>=1,<2'`)" in refused(engine="1")
    assert "shorthand must be text, got None" in refused(shorthand=None)
