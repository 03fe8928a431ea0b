"""What a service has been given of a run: kept in the run's folder, so that a run that goes on gives no point twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from stillhouse import Run
from stillhouse.config.structure import structure
from stillhouse.files import read_table, write_json
from stillhouse.training.points import Point

__all__ = ["Receipt"]


@attrs.define
class Receipt:
    """The service's name for the run, and the last step that it has of each tag.

    Attributes:
        path: the file.
        id: None where the service has not named the run yet.
        steps: by tag.
    """

    path: Path
    id: str | None = None
    steps: dict[str, int] = attrs.field(factory=dict)

    @classmethod
    def read(cls, run: Run, name: str) -> Receipt:
        """The receipt of the service ``name`` in the run's folder; an empty one where there is none.

        Raises:
            StillhouseError: the file is damaged.
        """
        assert run.folder is not None  # a run without one has no loggers
        path = run.folder / "loggers" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            return cls(path)
        found = read_table(path, "a logger's receipt")
        return cls(
            path,
            structure(found.get("id"), str, f"{path}: id"),
            structure(found.get("steps"), dict[str, int], f"{path}: steps"),
        )

    def select_new(self, points: Sequence[Point]) -> list[Point]:
        """What of ``points`` the service has not got; points of which nothing is left are left out."""
        found = []
        for point in points:
            new = {tag: value for tag, value in point.scalars.items() if point.step > self.steps.get(tag, -1)}
            if new:
                found.append(point._replace(scalars=new))
        return found

    def add(self, points: Sequence[Point]) -> None:
        """Remember that the service has ``points``.

        Raises:
            StillhouseError: the file cannot be written.
        """
        self.steps |= {tag: point.step for point in points for tag in point.scalars}
        self.write()

    def write(self) -> None:
        """Write the file; raises as :meth:`add`."""
        write_json(self.path, {"id": self.id, "steps": self.steps})
