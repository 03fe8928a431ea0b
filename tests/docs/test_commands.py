"""The commands of the pages are commands, and print what the pages say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.imports import ROOT
from support.pages import fences, short

from stillhouse import load_recipe
from stillhouse.cli import main
from stillhouse.cli.common import collect_overrides
from stillhouse.cli.parser import make_parser
from stillhouse.contract.plugin import option_names
from stillhouse.entries import installed
from stillhouse.registry.plugins import load, plugins_in_use


def test_every_plugins_main_option_is_on_the_commands_page():
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
    """A line without numbers, and with runs of spaces, and of a rule's dashes, as one."""
    return " ".join(re.sub(r"\d[\d.,e-]*", "#", re.sub("\u2500+", "\u2500", line)).split())


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
