"""Commands by entry point: an outside one beside ours, and every way in which one is wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from stillhouse.cli import main
from stillhouse.cli.parser import make_parser

GROUP = "stillhouse.commands"
GREET = """
def add(commands):
    parser = commands.add_parser("greet", help="say hello")
    parser.add_argument("whom")
    parser.set_defaults(function=lambda arguments: print("hello", arguments.whom) or 3)
"""


def says(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one error that a command line ends with."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_command_from_elsewhere_joins_ours(fake_distribution: Any, capsys: pytest.CaptureFixture[str]):
    fake_distribution("greeter", {"greet": "greet_one"}, GREET, group=GROUP)
    assert main(["greet", "you"]) == 3
    assert capsys.readouterr().out == "hello you\n"
    listed = make_parser().format_help().splitlines()
    assert "    greet     say hello" in listed
    assert listed.index("    greet     say hello") > listed.index(
        "    plugins   list the installed plugins, or describe one"
    )


def test_an_unknown_command_is_told_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert says(capsys, "trian", "x.toml") == "error: no installed command is called 'trian' (did you mean 'train'?)"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (
            "import nothing_of_this_name",
            "cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("x = 1", "needs a function add(commands) in {module}"),
        ("def add(commands): 1 / 0", "cannot be added: ZeroDivisionError: division by zero"),
        ("def add(commands): pass", "adds no parser"),
        (
            "def add(commands): commands.add_parser('greet', help='x')",
            "has no function: parser.set_defaults(function=...)",
        ),
        (
            "def add(commands): commands.add_parser('train')",
            "cannot be added: must add the command 'greet' only, got 'train'",
        ),
    ],
)
def test_a_broken_command_is_named_where_it_is_asked_for_and_ends_no_other(
    fake_distribution: Any, capsys: pytest.CaptureFixture[str], source: str, what: str
):
    module = f"greet_{abs(hash(source))}"
    fake_distribution("greeter", {"greet": module}, source, group=GROUP)
    line = says(capsys, "greet", "you")
    assert line.startswith(f"error: the command 'greet' {what.format(module=module)}")
    assert "(from greeter 1.0" in line
    text = make_parser().format_help()
    assert "greet" in text
    assert "train a recipe's student" in text
    assert main(["plugins", "--check"]) == 1
    assert f"greeter 1.0: the command 'greet' {what.format(module=module)}" in capsys.readouterr().out
    assert main(["plugins"]) == 0


def test_a_command_of_two_distributions_is_reached_by_both_names(
    fake_distribution: Any, capsys: pytest.CaptureFixture[str]
):
    fake_distribution("one-dist", {"greet": "greet_a"}, GREET, group=GROUP)
    fake_distribution("two-dist", {"greet": "greet_b"}, GREET.replace("hello", "good day,"), group=GROUP)
    line = says(capsys, "greet", "you")
    assert line == (
        "error: the command 'greet' is brought by one-dist and two-dist (write 'one-dist:greet' or 'two-dist:greet')"
    )
    assert main(["two-dist:greet", "you"]) == 3
    assert capsys.readouterr().out == "good day, you\n"
    assert "one-dist:greet" in make_parser().format_help()


def test_one_command_imports_no_other():
    code = (
        "import sys, stillhouse.cli as c; c.main(['plugins', '--json']); "
        "print([m for m in sys.modules if m.startswith('stillhouse.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.splitlines()[-1]
    assert "stillhouse.cli.plugins" in loaded
    assert "stillhouse.cli.train" not in loaded
