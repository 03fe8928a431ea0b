"""``stillhouse monitor``: opens TensorBoard on the runs that are meant, with short names, on a free local port."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from stillhouse.cli.common import Commands, make_console
from stillhouse.errors import StillhouseError, first_line
from stillhouse.experiments.plan import MEAN

__all__ = ["add", "find_events", "launch"]

_EVENTS = "*tfevents*"
_FIRST_PAGE = b"custom_scalars__config__"
_BEGINNING = 1 << 20
"""Bytes of a file of events in which its first page is described, if it has one."""


def add(commands: Commands) -> None:
    """Add the command."""
    monitor = commands.add_parser("monitor", help="open TensorBoard on runs")
    monitor.add_argument(
        "folders",
        nargs="*",
        default=["runs"],
        metavar="RUN|FOLDER",
        help="a run's folder, or one of runs (default: runs)",
    )
    monitor.add_argument(
        "--seeds", action="store_true", help="of an ablation, each run as well, and not the arms' means alone"
    )
    monitor.add_argument("--port", type=int, help="of the local address (default: a free one)")
    monitor.set_defaults(function=_monitor)


def _monitor(arguments: argparse.Namespace) -> int:
    found = find_events(arguments.folders, seeds=arguments.seeds)
    with TemporaryDirectory(prefix="stillhouse-monitor-") as folder:
        _serve(found, launch(found, Path(folder), arguments.port))
    return 0


def _serve(found: Mapping[str, Path], url: str) -> None:
    """Say where, and wait until the user has enough."""
    console = make_console()
    old = [name for name, folder in found.items() if not _has_first_page(folder)]
    for name in found:
        console.print(name, highlight=False, markup=False, soft_wrap=True)
    if old:
        text = f"of an earlier version, without a first page: {', '.join(old)}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    page = "" if len(old) == len(found) else "#custom_scalars"
    console.print(f"TensorBoard  {url}{page}  (Ctrl-C ends it)", highlight=False, markup=False, soft_wrap=True)
    threading.Event().wait()


def find_events(folders: Sequence[str | Path], *, seeds: bool = False) -> dict[str, Path]:
    """The folders below ``folders`` that hold events, by the shortest names that tell them apart.

    What all of them have in common is left out, and so is ``tensorboard``, as a run calls its own. Of an ablation's arms with
    a mean over their seeds that is taken alone, unless ``seeds`` are wanted as well.

    Raises:
        StillhouseError: a folder that is not there or cannot be read, or none with events in it.
    """
    places: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise StillhouseError("no such folder", where=str(folder), hint="a run's folder, or one that holds runs")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise StillhouseError("cannot be read: permission denied", where=str(folder))
        places += sorted({file.parent.resolve() for file in folder.rglob(_EVENTS)})
    places = list(dict.fromkeys(places))
    if not seeds:
        arms = {place.parent for place in places if place.name == MEAN}
        places = [place for place in places if place.name == MEAN or place.parent.parent not in arms]
    if not places:
        where = ", ".join(map(str, folders))
        raise StillhouseError("no run here has written events", where=where, hint="`stillhouse train` writes them")
    return dict(zip(_shorten(places), places, strict=True))


def _shorten(places: Sequence[Path]) -> list[str]:
    own = {"tensorboard"} if any(place.name != MEAN for place in places) else {"tensorboard", MEAN}
    runs = [place.parent if place.name in own else place for place in places]
    if len(set(runs)) < len(runs):
        runs = list(places)
    if len(runs) == 1:
        return [runs[0].name]
    common = PurePath(os.path.commonpath(runs))
    return [run.relative_to(common).as_posix() if run != common else run.name for run in runs]


def _has_first_page(folder: Path) -> bool:
    for file in folder.glob(_EVENTS):
        with file.open("rb") as opened:
            if _FIRST_PAGE in opened.read(_BEGINNING):
                return True
    return False


def launch(found: Mapping[str, Path], folder: Path, port: int | None = None) -> str:
    """Serve the events of ``found`` at the local address, in threads that end with the process; the URL.

    Args:
        found: folders with events, by the names that they are shown under.
        folder: an empty one, which gets a link of that name to each: TensorBoard has no other way to name a run.
        port: None takes a free one.

    Raises:
        StillhouseError: the port is in use or none, the folder cannot be written, or TensorBoard is not whole.
    """
    if port is not None and not 1 <= port <= 65535:
        raise StillhouseError(f"must be from 1 to 65535, got {port}", where="--port")
    try:
        from tensorboard import default, program
        from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin

        from stillhouse.cli.hparams_page import HParamsOfAll

        for name, events in found.items():
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(events, target_is_directory=True)
    except ImportError as error:
        raise StillhouseError(f"TensorBoard cannot be imported: {first_line(error)}") from error
    except OSError as error:
        raise StillhouseError(f"no links to the runs can be made: {first_line(error)}", where=str(folder)) from error
    board = program.TensorBoard([HParamsOfAll if each is HParamsPlugin else each for each in default.get_plugins()])
    # Its faster reader is a program of its own, and follows no links on some systems.
    options = ["", "--logdir", str(folder), "--host", "127.0.0.1", "--load_fast", "false"]
    board.configure(argv=[*options, *([] if port is None else ["--port", str(port)])])
    try:
        url: Any = board.launch()
    except program.TensorBoardServerException as error:
        where = "--port" if port is not None else ""
        hint = "leave --port out, and a free one is found" if port is not None else ""
        raise StillhouseError(f"TensorBoard cannot be served: {first_line(error)}", where=where, hint=hint) from error
    return str(url)
