"""``python -m stillhouse.cli``: the command, wherever its script was installed."""

from __future__ import annotations

import sys

from stillhouse.cli import main

if __name__ == "__main__":
    sys.exit(main())
