"""``python -m stillhouse.cli``: the command, wherever its script was installed."""

from __future__ import annotations

from stillhouse.cli import command

if __name__ == "__main__":
    command()
