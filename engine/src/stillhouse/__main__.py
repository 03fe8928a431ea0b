"""``python -m stillhouse``: the command, for ``torchrun -m stillhouse``."""

from __future__ import annotations

import sys

from stillhouse.cli import main

if __name__ == "__main__":
    sys.exit(main())
