"""Plugins made for another version of the contract, and names that will go."""

from __future__ import annotations

import warnings

import pytest
from support import recipe

from stillhouse import Plugin, StillhouseError, plugin, prepare
from stillhouse.errors import DeprecatedNameWarning, warn_deprecated


@plugin
class Early(Plugin):
    """Made for a contract that is gone."""

    engine = "<1"


@plugin
class Late(Plugin):
    """Made for a contract that is to come."""

    engine = ">=2,<3"


@pytest.mark.parametrize(
    ("made", "follow"), [(Early(), "it is too old: update the plugin"), (Late(), "it is too new: update stillhouse")]
)
def test_who_has_to_follow_is_said(made: Plugin, follow: str):
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(), plugins=[made], write=False)
    assert follow in str(caught.value)
    assert f"the plugin {type(made).__name__} needs version {made.engine} of the contract" in str(caught.value)


def test_a_deprecated_name_is_said_at_the_line_that_uses_it():
    def old() -> None:
        warn_deprecated("assembly.old", "assembly.new", "0.3")

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        old()
    (warning,) = seen
    assert issubclass(warning.category, DeprecatedNameWarning)
    assert warning.filename == __file__
    assert str(warning.message) == "assembly.old is deprecated, and gone in stillhouse 0.3: write assembly.new"
