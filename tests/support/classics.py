"""The pack of classics on the digits: the shortest list of plugins with each method, and a run of two steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillhouse import Recipe

STAGES = ("stage1", "stage2", "stage3")


def read(*stages: str, pool: str = "none") -> dict[str, Any]:
    """Links at ``stages``, whose distance others take."""
    links = [{"student": stage, "teacher": stage, "pool": pool} for stage in stages]
    return {"use": "features", "distance": "none", "links": links}


MAPS, VECTORS, ALL = read("stage2"), read("stage3", pool="mean"), read(*STAGES)
WIDEN = {"use": "projector", "kind": "linear"}

LISTS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "ab": (MAPS, {"use": "ab"}),
    "at": (ALL, {"use": "at"}),
    "cc": (VECTORS, {"use": "cc"}),
    "crd": (VECTORS, {"use": "crd", "dim": 16, "negatives": 8}),
    "ctkd": ({"use": "ctkd"},),
    "dist": ({"use": "dist"},),
    "dkd": ({"use": "dkd"},),
    "fitnet": (MAPS, {"use": "fitnet", "kernel": 3}),
    "fsp": (ALL, WIDEN, {"use": "fsp"}),
    "ft": (MAPS, {"use": "ft"}),
    "ickd": (MAPS, {"use": "ickd"}),
    "logit_std": ({"use": "logit_std"},),
    "lsh": (VECTORS, {"use": "lsh", "square": 1.0}),
    "mean_teacher": ({"use": "mean_teacher"},),
    "mgd": (MAPS, {"use": "mgd"}),
    "mutual": ({"use": "mutual", "peers": 2},),
    "nst": (MAPS, {"use": "nst"}),
    "ofd": (MAPS, {"use": "ofd"}),
    "pkt": (VECTORS, {"use": "pkt"}),
    "reviewkd": (ALL, {"use": "reviewkd", "middle": 8}),
    "rkd": (VECTORS, {"use": "rkd"}),
    "simkd": ({"use": "simkd", "features": "pool"},),
    "sp": (MAPS, {"use": "sp"}),
    "srd": (VECTORS, {"use": "srd"}),
    "tat": (MAPS, {"use": "tat"}),
    "vid": (ALL, {"use": "vid"}),
}
"""The method last."""

TEACHERLESS = ("mean_teacher", "mutual")
"""Methods that need no teacher."""


def digits(*plugins: Mapping[str, Any], batch_size: int = 10, **tables: Any) -> Recipe:
    """Two steps on twenty digits, with a random teacher of twice the width and a checkpoint in each step, no pictures."""
    net = "stillhouse.models:convnet"
    given: dict[str, Any] = {
        "run": {"name": "classic", "epochs": 1, "device": "cpu", "log_every": 1, "figures": False},
        "data": {"name": "sklearn:digits", "per_class": 2, "batch_size": batch_size},
        "student": {"model": net, "args": {"width": 4}},
        "teacher": {"model": net, "args": {"width": 8}, "random": True},
        "optimizer": {"lr": 1e-2},
        "checkpoints": {"every_steps": 1, "best": False},
        "plugins": [dict(p) for p in plugins],
        **tables,
    }
    return Recipe.from_dict(given)
