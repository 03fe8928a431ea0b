"""What a run's data are, as plain data and as lines for ``stillhouse explain``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from stillhouse.config.data import DataSpec
from stillhouse.contract.batch import DataInfo
from stillhouse.data.base import Data

__all__ = ["describe_data", "render_data"]


def describe_data(data: Data, spec: DataSpec, info: DataInfo) -> dict[str, Any]:
    """Describe the data of a run, as plain data."""
    batch = [min(spec.batch_size, info.sizes["train"]), data.unlabelled_in_batch]
    more = {"name": spec.unlabelled or spec.pool, "batch": batch, "terms": spec.terms}
    return {
        "name": spec.name,
        "classes": info.classes,
        "input": list(info.input_shape),
        "sizes": dict(info.sizes),
        "batch_size": spec.batch_size,
        "weights": None if data.weight_range is None else list(data.weight_range),
        "unlabelled": more if spec.has_unlabelled else None,
        "transforms": [{"use": name, "by": "batch" if together else "sample"} for name, together in data.transforms],
    }


def render_data(described: dict[str, Any]) -> Iterator[str]:
    """The lines of what :func:`describe_data` gives."""
    sizes = ", ".join(f"{n} {size}" for n, size in described["sizes"].items())
    yield (
        f"data     {described['name']}: {described['classes']} classes, inputs {tuple(described['input'])}, {sizes}; "
        f"batches of {described['batch_size']}"
    )
    if described["unlabelled"]:
        name, (labelled, unlabelled), terms = described["unlabelled"].values()
        name = {"rest": "the rest of the training samples", "all": "all training samples"}.get(name, name)
        yield (
            f"         unlabelled besides: {name}; {labelled} labelled and {unlabelled} unlabelled samples a batch, "
            f"plugins' terms over {'both' if terms == 'all' else 'the labelled ones'}"
        )
    if described["transforms"]:
        groups = groupby(described["transforms"], lambda transform: transform["by"])
        listed = "; ".join(f"by {by}: {', '.join(t['use'] for t in group)}" for by, group in groups)
        yield f"         transforms {listed}"
    if described["weights"]:
        yield "         weights of samples from {:g} to {:g}".format(*described["weights"])
