"""What the walk refuses and how: missing layers, shapes that cannot meet, hooks and links, models that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
from support import FEATURES, recipe

from stillhouse import LinkSpec, Plugin, StillhouseError, Tap, Weight, hookimpl, plugin, prepare


def test_all_missing_layers_are_named_at_once_with_the_nearest():
    links = [{"student": "bdy", "teacher": "body"}, {"student": "body", "teacher": "boddy"}]
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe({**FEATURES, "links": links}, {"use": "spectral", "layer": "hed", "rank": 1}), write=False)
    text = str(caught.value)
    assert "plugin 'features': links[0].student: the student has no layer 'bdy' (did you mean 'body'" in text
    assert "plugin 'features': links[1].teacher: the teacher has no layer 'boddy' (did you mean 'body'" in text
    assert "plugin 'spectral'" in text
    assert "'hed' (did you mean 'head'" in text
    assert len(caught.value.faults) == 3


def test_shapes_that_cannot_meet_name_plugin_link_and_both_shapes():
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(FEATURES), write=False)
    text = str(caught.value)
    assert "plugin 'features'" in text
    assert "features/body" in text
    assert "(2, 4)" in text
    assert "(2, 6)" in text
    assert "projector" in text


def test_an_orthogonal_projector_down_is_refused_with_advice():
    with pytest.raises(StillhouseError) as caught:
        prepare(
            recipe(FEATURES, {"use": "projector"}, student={"model": "support:TinyNet", "args": {"width": 9}}),
            write=False,
        )
    text = str(caught.value)
    assert "plugin 'projector'" in text
    assert "features/body" in text
    assert "9" in text
    assert "6" in text
    assert "linear" in text


@plugin
class Bad(Plugin):
    """Returns what ``what`` says where a hook wants something else."""

    what: str
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return ["body"] if self.what == "taps" else [Tap("student", "body")]

    @hookimpl
    def build(self, assembly):
        return {} if self.what == "build" else None

    @hookimpl
    def losses(self, step):
        if self.what == "losses":
            return step.student.output.mean()
        if self.what == "vector":
            return {"x": step.student.output.mean(0)}
        return {}


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("taps", "add_taps gave 'body' (Tap("),
        ("build", "build gave dict (an nn.Module"),
        ("losses", "losses gave Tensor (a dict"),
        ("vector", "losses: the loss term 'x' is a tensor of shape (3,) (a scalar"),
    ],
)
def test_what_a_hook_may_not_return_is_said(what: str, says: str):
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(), plugins=[Bad(what=what)], write=False)
    assert f"plugin 'bad': {says}" in str(caught.value)


def test_a_link_to_an_untapped_layer_is_refused():
    @plugin
    class Untapped(Plugin):
        """Links what it does not read."""

        @hookimpl
        def add_links(self, assembly):
            return [LinkSpec("x", "body", "body")]

    with pytest.raises(StillhouseError, match="no tap reads"):
        prepare(recipe(), plugins=[Untapped()], write=False)


def test_a_link_that_cannot_be_read_is_named_with_both_shapes():
    links = [{"student": "body", "teacher": "body", "pool": "cls"}]
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe({**FEATURES, "links": links}), write=False)
    place = "plugin 'features': link 'features/body', student (2, 4, 6, 6), teacher (2, 6, 6, 6)"
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"student": {"model": "support:TinyNet", "args": {"in_channels": 3}}},
            "the student cannot take inputs of shape",
        ),
        (
            {"student": {"model": "support:TinyNet", "args": {"num_classes": 2}}},
            "needs one logit for each of the data's 3 classes, got 2",
        ),
        (
            {"teacher": {"model": "support:TinyNet", "args": {"in_channels": 3}, "random": True}},
            "the teacher cannot take",
        ),
    ],
)
def test_models_that_do_not_fit_the_data_are_refused(changes: dict[str, Any], says: str):
    plugins = [{"use": "logits"}] if "teacher" in changes else []
    with pytest.raises(StillhouseError, match=says):
        prepare(recipe(*plugins, **changes), write=False)
