"""Pages of the site that lie outside docs/: the README, which is its first page, each plugin's, the change log, how to contribute.

Pages under docs/ link to those files by their paths, so that the links work wherever the repository is read; here the
files become pages and the links follow. Benchmark pages are written by scripts and enter the navigation as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]


def _outside() -> dict[str, str]:
    """Pages by their place in the site, and the files they are made of, relative to the repository."""
    pages = {f"plugins/{p.parent.name}.md": f"plugins/{p.parent.name}/README.md" for p in _readmes()}
    return {**pages, "index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


_APPLICATION = "experiments"
"""The distribution that brings a command and no method."""


def _readmes() -> list[Path]:
    return sorted((ROOT / "plugins").glob("*/README.md"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the parts of the navigation that are known by their files only."""
    docs = Path(config.docs_dir)
    for section in config.nav or []:
        for title, entries in section.items():
            if title in ("Benchmarks", "Experiments"):
                folder = docs / title.lower()
                listed = {
                    path for entry in entries for path in (entry.values() if isinstance(entry, dict) else [entry])
                }
                every = (f"{folder.name}/{page.name}" for page in sorted(folder.glob("*.md")))
                entries += [path for path in every if path not in listed]
                if title == "Experiments":
                    entries += [f"plugins/{_APPLICATION}.md"]
            elif title == "Methods":
                entries += [f"plugins/{p.parent.name}.md" for p in _readmes() if p.parent.name != _APPLICATION]
    nav: Any = config.nav
    nav += [{"Project": [{"Contributing": "contributing.md"}, {"Change log": "changelog.md"}]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make pages of files outside docs/."""
    for page, source in _outside().items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_to_pages(text, "").replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to files outside docs/ into links to their pages."""
    return _to_pages(markdown, "../", "../" * page.file.src_uri.count("/"))


def _to_pages(markdown: str, root: str, top: str = "") -> str:
    """Links to files outside docs/, which ``top`` and then ``root`` lead to, as links to their pages below ``top``."""
    for page, source in _outside().items():
        markdown = markdown.replace(f"]({top}{root}{source}", f"]({top}{page}")
    return markdown
