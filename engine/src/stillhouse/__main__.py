"""``python -m stillhouse``: the command, for ``torchrun -m stillhouse``."""

from __future__ import annotations

from stillhouse.cli import command

if __name__ == "__main__":
    command()
