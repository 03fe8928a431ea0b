"""TensorBoard's page *HParams* as ``monitor`` serves it: of all runs shown, the settings that are not alike.

TensorBoard itself takes its columns from whichever run it finds first: all that this one has, and nothing that only others have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin

__all__ = ["HParamsOfAll", "find_columns"]

Contents = Mapping[str, Mapping[str, bytes]]
"""What each run has written for the page, by run and tag."""


class HParamsOfAll(HParamsPlugin):  # type: ignore[misc]  # TensorBoard has no types
    """TensorBoard's own page, with the columns of :func:`find_columns`."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._context = _Columns(context)


class _Columns(Context):  # type: ignore[misc]  # likewise
    def experiment_from_metadata(
        self, ctx: Any, experiment_id: str, include_metrics: bool, contents: Contents, *rest: Any, **more: Any
    ) -> Any:
        """What TensorBoard would have, with other columns."""
        found = super().experiment_from_metadata(ctx, experiment_id, include_metrics, contents, *rest, **more)
        settings, metrics = find_columns(contents)
        if settings:
            del found.hparam_infos[:], found.metric_infos[:]
            found.hparam_infos.extend(settings)
            found.metric_infos.extend(metrics if include_metrics else [])
        return found


def find_columns(contents: Contents) -> tuple[list[Any], list[Any]]:
    """The settings in which runs differ, one that a run lacks included, or all where there is nothing to tell; and every metric.

    Args:
        contents: of the page's tags, as TensorBoard has read them.

    Returns:
        TensorBoard's ``HParamInfo`` and ``MetricInfo`` messages, in the order in which the runs have them.
    """
    runs: list[dict[str, str | float]] = []
    settings: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    for tags in contents.values():
        if metadata.SESSION_START_INFO_TAG in tags:
            start = metadata.parse_session_start_info_plugin_data(tags[metadata.SESSION_START_INFO_TAG])
            runs.append({name: value.string_value or value.number_value for name, value in start.hparams.items()})
        if metadata.EXPERIMENT_TAG in tags:
            experiment = metadata.parse_experiment_plugin_data(tags[metadata.EXPERIMENT_TAG])
            settings |= {info.name: info for info in experiment.hparam_infos}
            metrics |= {info.name.tag: info for info in experiment.metric_infos}
    values = {name: [run[name] for run in runs if name in run] for name in settings}
    differing = [name for name, of in values.items() if len(set(of)) > 1 or 0 < len(of) < len(runs)]
    for name in differing:
        names = sorted({value for value in values[name] if isinstance(value, str)})
        settings[name].domain_discrete.extend(names)  # what the page offers to choose from
    return [settings[name] for name in differing or settings], list(metrics.values())
