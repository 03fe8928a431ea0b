"""The conformance kit under pytest: a test for each check, of a function with the mark ``stillhouse_plugin``.

``@pytest.mark.stillhouse_plugin(plugin=Center, options={"momentum": 0.9})`` above ``def test_conformance(conformance_check):
conformance_check()`` is all; the mark takes what :func:`stillhouse.testing.check_plugin` takes. pytest finds this module by
itself; ``--stillhouse-slow`` makes the slow checks too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stillhouse.testing.subject import Subject

__all__ = ["conformance_check", "pytest_addoption", "pytest_configure", "pytest_generate_tests"]

_MARK = "stillhouse_plugin"
_FIXTURE = "conformance_check"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--stillhouse-slow``."""
    group = parser.getgroup("stillhouse")
    group.addoption(
        "--stillhouse-slow",
        action="store_true",
        help="check plugins with compiled models and in two processes too, half a minute each",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Say what the mark is for."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}(plugin=..., options=None, recipe=None): make the test for each check of the conformance kit",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test for each check, of one subject whose runs they share."""
    mark = metafunc.definition.get_closest_marker(_MARK)
    if mark is None or _FIXTURE not in metafunc.fixturenames:
        return
    from stillhouse.testing.conformance import CHECKS, name_of
    from stillhouse.testing.setting import make_subject

    slow = bool(metafunc.config.getoption("--stillhouse-slow"))
    made: list[Subject] = []

    def subject() -> Subject:
        if not made:
            made.append(make_subject(*mark.args, **mark.kwargs, slow=slow))
        return made[0]

    metafunc.parametrize(_FIXTURE, [(check, subject) for check in CHECKS], ids=map(name_of, CHECKS), indirect=True)


@pytest.fixture
def conformance_check(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Makes one check of the marked plugin: it fails with what is wrong, and is skipped where it cannot be made."""
    if not hasattr(request, "param"):
        raise pytest.UsageError(f"{request.node.name} needs the mark @pytest.mark.{_MARK}(plugin=...)")
    check, subject = request.param

    def make() -> None:
        from stillhouse.testing.conformance import make_check

        outcome = make_check(check, subject())
        if outcome.findings:
            pytest.fail("\n".join(f"{finding.what}\n    -> {finding.change}" for finding in outcome.findings), False)
        if not outcome.ran:
            pytest.skip("; ".join(note.text for note in outcome.notes))

    return make
