"""Text of anybody in Markdown: what a reader sees is the text, whatever is in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from stillhouse.terminal import printable
from stillhouse.training.markdown import code, fence, make_table

PARSER = MarkdownIt("commonmark").enable("table")
ODD = [
    "",
    "|",
    "a|b",
    "`",
    "``a`",
    "a\\|b`",
    "a\\",
    "<b>x</b>",
    "[x](http://y)",
    "&amp;|",
    "# a\n\n- b",
    "$|_*~",
    "\x1b[1m",
]


def read(text: str) -> list[Token]:
    return [child for token in PARSER.parse(text) for child in (token.children or [token])]


def see(tokens: list[Token]) -> str:
    """What is shown; anything but plain text and code is a fault."""
    kinds = {token.type for token in tokens}
    assert kinds <= {"paragraph_open", "paragraph_close", "text", "text_special", "code_inline"}, kinds
    return "".join(token.content for token in tokens)


def check_line(text: str) -> None:
    shown = " ".join(printable(text).split())
    assert see(read(f"x{code(text)}")) == f"x{shown}"
    table = PARSER.parse(make_table(["a", "b"], [[code(text), "end"]]))
    cells = [token.children or [] for token in table if token.type == "inline"]
    assert [see(cell) for cell in cells] == ["a", "b", shown, "end"]


@pytest.mark.parametrize("text", ODD)
def test_odd_lines(text: str):
    check_line(text)


@given(st.text(st.sampled_from("ab `|\\<>&*_[]()#!~-\n\t\r\u202e\u00e9"), max_size=12))
def test_any_line(text: str):
    check_line(text)


@given(st.text(st.sampled_from("ab `~\n#<"), max_size=20))
def test_any_block(text: str):
    (block,) = PARSER.parse(fence(text, "toml"))
    assert (block.type, block.info) == ("fence", "toml")
    assert block.content.rstrip("\n") == text.rstrip()
