"""Distillation alone: no loss but the plugins'; labels, where there are some, measure what the student's features know."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

import attrs
import torch
from ignite.metrics import EpochMetric, Metric
from torch import Tensor, nn

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults
from stillhouse.nested import list_tensors
from stillhouse.tasks.detectors import call_backbone, is_detector
from stillhouse.tasks.embeddings import measure_nearest_neighbours, measure_probe, measure_rank, to_vectors

__all__ = ["Distillation"]

_DIM = 128


@attrs.frozen(kw_only=True)
class Distillation(Task):
    """Distillation without a loss of the task's own: the student learns what the plugins' terms say, of images of any kind.

    It is what a student begins with that is fine-tuned later, by ``[student] recipe``; a detector learns in its backbone. What is measured are vectors, of
    one of the student's layers or of its output: of tokens and maps the mean over positions.

    Attributes:
        dim: numbers, or channels, that the model gives; None: one for each of the data's classes, 128 where they have none.
        layer: the layer whose output is measured, one that a plugin reads; None: the last one that plugins read, or else
            the student's output.
        k: neighbours that the metric ``knn`` asks.
        probe: whether to measure by a linear probe as well, which takes longer.
    """

    score: ClassVar[str] = "knn"
    calls_labelled: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("class", "mask", "depth", "image", "vector", "boxes", "none")

    dim: int | None = None
    layer: str | None = None
    k: int = 20
    probe: bool = True

    def __attrs_post_init__(self) -> None:
        raise_faults(
            Fault(key, f"must be >= 1, got {value}")
            for key, value in (("dim", self.dim), ("k", self.k))
            if value is not None and value < 1
        )

    def for_data(self, data: DataInfo) -> Self:
        """The task; where there are no classes to measure by, one that goes by the features' rank."""
        if data.target == "class":
            return self
        made: Any = _WithoutClasses(dim=self.dim, layer=self.layer, k=self.k, probe=self.probe)
        return made  # type: ignore[no-any-return]  # its class is one of this one's

    def outputs(self, data: DataInfo) -> int:
        """See :meth:`stillhouse.tasks.Task.outputs`."""
        return self.dim or data.classes or _DIM

    def collate(self, targets: list[Any]) -> Tensor:
        """Classes (B,), int64; -1 for targets of any other kind."""
        return torch.as_tensor([target if isinstance(target, int) else -1 for target in targets])

    def call(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        """See :meth:`stillhouse.tasks.Task.call`; of a detector its backbone alone, which learns without boxes."""
        return call_backbone(model, inputs) if is_detector(model) else model(inputs)

    def loss(self, output: Any, targets: Any) -> Tensor:
        """0, a scalar on the device, without gradient: the terms are the plugins'."""
        return torch.zeros((), device=next(x.device for x in list_tensors(output)))

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """The vectors' effective ``rank``; where there are classes ``knn`` and ``probe``.

        ``knn`` is the accuracy of a vote of the ``k`` nearest other samples of the split by cosine, ``probe`` that of a linear
        probe that is cross-validated within the split.
        """
        measures: dict[str, Callable[[Tensor, Tensor], float]] = {}
        if data.target == "class":
            measures["knn"] = partial(measure_nearest_neighbours, k=self.k)
            if self.probe:
                measures["probe"] = measure_probe
        measures["rank"] = measure_rank
        return {name: EpochMetric(measure, self._select, check_compute_fn=False) for name, measure in measures.items()}

    def _select(self, state: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The vectors that are measured, and the classes.

        Raises:
            StillhouseError: no plugin reads the layer, or the output is no tensor.
        """
        features, layer = state["features"], self.layer
        if layer is None and features:
            layer = list(features)[-1]
        if layer is not None and layer not in features:
            raise StillhouseError(
                f"no plugin reads the student's layer {layer!r}",
                where="task.args.layer",
                hint=did_you_mean(layer, list(features)) if features else "leave it out: the output is measured then",
            )
        value = state["output"] if layer is None else features[layer]
        if not isinstance(value, Tensor):
            what = f"a student's output must be a tensor to be measured, got {type(value).__name__}"
            raise StillhouseError(what, where="task.args.layer", hint="name a layer that a plugin reads")
        return to_vectors(value), state["target"]

    def output_text(self) -> str:
        """See :meth:`stillhouse.tasks.Task.output_text`."""
        return "what the student gives: no task is learnt yet"

    def prediction(self, data: DataInfo, output: Any) -> dict[str, Any]:
        """The output as a vector."""
        return {"vector": [round(value, 5) for value in to_vectors(output[None])[0].tolist()]}


class _WithoutClasses(Distillation):
    """The same for data without classes."""

    __slots__ = ()

    score = "rank"
