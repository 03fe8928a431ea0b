"""Calls of a recipe's callables: whatever they raise is said, the end of the process too."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from support import recipe

from stillhouse import StillhouseError, prepare
from stillhouse.cli import main
from stillhouse.config.signatures import call


def leave(**_: Any) -> None:
    sys.exit(0)


def chatter() -> None:
    raise ValueError("x" * 100_000)


@pytest.mark.parametrize("function", [leave, sys.exit, exit])
def test_the_end_of_the_process_is_an_error(function: Any):
    with pytest.raises(StillhouseError, match=r"where: calling .* failed: SystemExit: "):
        call(function, {}, "where")


def test_an_error_of_a_books_length_is_cut():
    with pytest.raises(StillhouseError) as caught:
        call(chatter, {}, "where")
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("table", ["student__model", "data__name", "task__name", "optimizer__name"])
@pytest.mark.parametrize("path", ["sys:exit", "builtins:exit", "test_signatures:leave"])
def test_recipes_that_name_what_ends_the_process(table: str, path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "test_signatures", sys.modules[__name__])
    with pytest.raises(StillhouseError, match=r"SystemExit|must be a (subclass|class)|unknown argument"):
        prepare(recipe(teacher=None, **{table: path}), write=False)


def test_a_command_whose_code_ends_the_process(
    fake_distribution: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    source = "def add(commands):\n commands.add_parser('leave').set_defaults(function=lambda _: exit(0))"
    fake_distribution("leave-dist", {"leave": "leave_command"}, source, group="stillhouse.commands")
    assert main(["leave"]) == 2
    assert "error: leave: code that the command called has ended the process: SystemExit: 0" in capsys.readouterr().err
