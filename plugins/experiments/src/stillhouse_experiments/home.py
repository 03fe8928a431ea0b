"""Where plans, pages and results are: a folder of experiments, ``docs/experiments`` unless another is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import attrs

from stillhouse import StillhouseError
from stillhouse.errors import did_you_mean

__all__ = ["DEFAULT", "Home", "find_home", "locate"]

DEFAULT = Path("docs") / "experiments"


@attrs.frozen
class Home:
    """A folder of experiments: pages, ``plans/``, ``results/`` and ``full.toml``.

    Attributes:
        folder: where all of them are.
        pages: where pages and results are written, if not there.
    """

    folder: Path
    pages: Path

    @property
    def plans(self) -> Path:
        """The folder of the plans."""
        return self.folder / "plans"

    @property
    def tier(self) -> Path:
        """The file of the full tier."""
        return self.folder / "full.toml"

    @property
    def results(self) -> Path:
        """The folder of plots and numbers, made where it is not there yet."""
        folder = self.pages / "results"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def names(self) -> list[str]:
        """The plans' names."""
        return sorted(path.stem for path in self.plans.glob("*.toml"))

    def plan(self, name: str) -> Path:
        """The file of a plan.

        Raises:
            StillhouseError: there is no such plan, with the nearest names.
        """
        path = self.plans / f"{name}.toml"
        if not path.is_file():
            hint = did_you_mean(name, self.names())
            raise StillhouseError(f"unknown experiment {name!r}", where=str(self.plans), hint=hint)
        return path

    def get(self, block: str) -> str:
        """The text between the two marks of a block; empty where no page has it."""
        for page in self.pages.glob("*.md"):
            _, found, rest = page.read_text(encoding="utf-8").partition(f"<!-- results: {block} -->")
            if found:
                return rest.partition("<!-- end -->")[0]
        return ""

    def put(self, block: str, text: str) -> None:
        """Put text where a page has ``<!-- results: BLOCK -->`` and ``<!-- end -->``."""
        place = re.compile(rf"(<!-- results: {re.escape(block)} -->\n).*?(<!-- end -->)", re.DOTALL)
        self.change(lambda page: place.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page))

    def change(self, edit: Callable[[str], str]) -> None:
        """Change the text of every page."""
        for page in self.pages.glob("*.md"):
            before = page.read_text(encoding="utf-8")
            after = edit(before)
            if after != before:
                page.write_text(after, encoding="utf-8")


def find_home(folder: Path | None, pages: Path | None) -> Home:
    """The folder of experiments that is named, or else :data:`DEFAULT` below the current one.

    Raises:
        StillhouseError: it has no plans.
    """
    home = folder or DEFAULT
    if not (home / "plans").is_dir():
        hint = "call it where docs/experiments is, name a folder with --folder, or a plan's file: PLAN.toml"
        raise StillhouseError("there is no folder plans in it", where=str(home), hint=hint)
    return Home(home, pages or home)


def locate(plan: str, folder: Path | None, pages: Path | None) -> tuple[Path, Home]:
    """A plan's file and the home it belongs to: of ``PLAN.toml`` the folder around it, or around its folder ``plans``.

    Raises:
        StillhouseError: there is no such plan.
    """
    if not plan.endswith(".toml"):
        home = find_home(folder, pages)
        return home.plan(plan), home
    path = Path(plan)
    if not path.is_file():
        raise StillhouseError("there is no such plan", where=plan)
    around = folder or (path.absolute().parents[1] if path.absolute().parent.name == "plans" else path.parent)
    return path, Home(around, pages or around)
