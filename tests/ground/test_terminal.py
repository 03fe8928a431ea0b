"""What is printed is shown as it is, whoever has written it."""

from __future__ import annotations

import io

import pytest
from rich.progress import Progress, TextColumn
from rich.text import Text

from stillhouse.terminal import Terminal, make_table, printable

HOSTILE = "[bold]a[/b] :smile: \x1b[2J\x01 \u202egnp.exe \udcff \x9b31m [link=x]y[/link]"
SHOWN = r"[bold]a[/b] :smile: \x1b[2J\x01 \u202egnp.exe \udcff \x9b31m [link=x]y[/link]"


def show(what: object, **options: object) -> str:
    file = io.StringIO()
    Terminal(file=file, width=200, color_system=None, **options).print(what, soft_wrap=True)
    return file.getvalue()


def test_characters_that_a_terminal_acts_on_are_written_out():
    assert printable(HOSTILE) == SHOWN
    assert printable("Übung\té 中文 \u200d") == "Übung\té 中文 \u200d"


def test_text_tables_and_bars_show_what_they_are_given():
    assert show(HOSTILE).rstrip("\n") == SHOWN
    assert show(Text(HOSTILE, style="red")).rstrip("\n") == SHOWN
    table = make_table("name", HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE))
    assert show(table).count(SHOWN) == 4
    file = io.StringIO()
    bar = Progress(TextColumn("{task.description}", markup=False), console=Terminal(file=file, width=200))
    bar.add_task(HOSTILE)
    bar.console.print(bar)
    assert r":smile: \x1b[2J" in file.getvalue()
    assert "\x1b" not in file.getvalue()


def test_colours_are_left_to_those_who_print():
    file = io.StringIO()
    Terminal(file=file, force_terminal=True, color_system="standard").print(Text("x\x1b[2J", style="red"))
    assert file.getvalue() == "\x1b[31mx\\x1b[2J\x1b[0m\n"


def test_what_an_output_cannot_encode_is_written_out():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Terminal(file=file, width=80).print("é\udcff")
    file.flush()
    assert file.buffer.getvalue() == b"\\xe9\\udcff\n"


def test_a_reader_that_has_had_enough_is_left_to_the_command():
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Terminal(file=Closed()).print("a")
