"""The change log's fragments: of a kind that there is, not empty, and put together by towncrier as the log is written."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
from support.imports import ROOT

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]
KINDS = {kind["directory"]: kind["name"] for kind in CONFIG["type"]}
FRAGMENTS = sorted((ROOT / CONFIG["directory"]).glob("*"))


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.name)
def test_a_fragment_is_of_a_known_kind_and_says_something(path):
    # towncrier leaves out in silence what has another name.
    name, _, rest = path.name.partition(".")
    assert name.startswith("+"), "+NAME.KIND.md: a fragment belongs to no number"
    assert rest in {f"{kind}.md" for kind in KINDS}
    text = path.read_text(encoding="utf-8")
    assert text.strip()
    assert text.endswith("\n")
    assert not text.startswith(("-", "#")), "towncrier makes the list"


def test_the_fragments_are_put_together_where_the_log_begins():
    pytest.importorskip("towncrier")
    assert CONFIG["start_string"] in (ROOT / CONFIG["filename"]).read_text(encoding="utf-8")
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9", "--date", "2030-01-01"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made.startswith("## 9.9.9 (2030-01-01)\n")
    for path in FRAGMENTS:
        first, *more = path.read_text(encoding="utf-8").splitlines()
        assert f"- {first}\n" in made
        assert all(f"  {line}\n" in made for line in more)
        assert f"### {KINDS[path.name.split('.')[1]]}\n" in made
