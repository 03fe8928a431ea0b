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


def table_in(width: int, *rows: tuple[str, ...]) -> list[str]:
    table = make_table("plugin", "from", "options", title="plugins, in order")
    for row in rows:
        table.add_row(*row)
    file = io.StringIO()
    Terminal(file=file, width=width, color_system=None).print(table)
    return [line.rstrip() for line in file.getvalue().splitlines()]


ROWS = (
    ("features", "stillhouse-features 0.1.0", "links = [{student = 'stage3', pool = 'mean'}] distance = 'mse'"),
    ("tcs", "stillhouse-tcs 0.1.0", "epochs = 3"),
)


@pytest.mark.parametrize("width", [22, 30, 40, 50, 60, 80, 100, 200])
def test_tables_break_no_word(width: int):
    words = {word for row in ROWS for cell in row for word in cell.split()}
    shown = {word for line in table_in(width, *ROWS) for word in line.split()}
    assert words <= shown
    assert max(map(len, table_in(width, *ROWS))) <= width


def test_a_table_that_is_too_wide_for_its_words_is_shown_as_blocks():
    lines = table_in(30, *ROWS)
    assert lines[:3] == ["plugins, in order", "features", "  from  stillhouse-features"]
    assert lines[-3:] == ["tcs", "  from  stillhouse-tcs 0.1.0", "  options  epochs = 3"]


def test_a_table_with_room_is_as_wide_as_its_cells():
    assert len(table_in(200, ROWS[1])) == 6
    assert table_in(200, ROWS[1])[4] == " tcs      stillhouse-tcs 0.1.0   epochs = 3"
