"""A run of MLflow for each run: the recipe as parameters, every scalar as a metric."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from stillhouse import Run
from stillhouse.training.points import Point
from stillhouse_loggers.packages import require
from stillhouse_loggers.receipt import Receipt

__all__ = ["MlflowRun"]

_MOST_METRICS, _MOST_PARAMS, _LONGEST = 1000, 100, 500
"""MLflow's limits: metrics and parameters in a call, characters of a parameter in older servers."""


@attrs.define
class MlflowRun:
    """Writes to MLflow through a client of its own: a run that is active in the process is left alone.

    Attributes:
        experiment: in which the run is listed; made where there is none.
        uri: the tracking server or store; None: MLflow's own choice, by ``MLFLOW_TRACKING_URI``.
    """

    experiment: str = "stillhouse"
    uri: str | None = None
    _client: Any = attrs.field(init=False)  # of a package that need not be there, where options are read
    _receipt: Receipt = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        require("mlflow")

    def open(self, run: Run) -> None:
        """Make the run, or find the one that this run has begun."""
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri)
        self._receipt = Receipt.read(run, "mlflow")
        if self._receipt.id is not None:
            self._client.update_run(self._receipt.id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        made = self._client.create_run(
            experiment, run_name=run.recipe.run.name, tags={"stillhouse.folder": str(run.folder)}
        )
        self._receipt.id = made.info.run_id
        self._receipt.write()
        self._log_params(self._receipt.id, run.recipe.to_dict())

    def write(self, points: Sequence[Point]) -> None:
        """Log what MLflow has not got yet."""
        from mlflow.entities import Metric

        new = self._receipt.select_new(points)
        metrics = [
            Metric(_allowed(tag), value, int(point.at * 1000), point.step)
            for point in new
            for tag, value in point.scalars.items()
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._receipt.id, metrics=metrics[start : start + _MOST_METRICS])
        self._receipt.add(new)

    def close(self, *, completed: bool) -> None:
        """Say how the run has ended."""
        self._client.set_terminated(self._receipt.id, "FINISHED" if completed else "FAILED")

    def _log_params(self, run_id: str, tables: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_allowed(key), str(value)[:_LONGEST]) for key, value in _flatten(tables)]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])


def _allowed(name: str) -> str:
    """``name`` with what MLflow takes in a name."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)


def _flatten(tables: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables and lists of them, as one: ``plugins.0.use``."""
    for key, value in tables.items():
        place = f"{before}{key}"
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{place}.")
        else:
            yield place, value
