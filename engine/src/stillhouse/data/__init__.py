"""Data: what is read, how it is split and augmented, and the streams of batches.

``spec`` is the recipe's ``[data]`` and ``loading`` turns it into ``datasets``' :class:`Data`. Behind them, ``catalogue``
turns a name into a source (``sources``, ``imagefolder``, ``pairs``, ``mapstyle``) whose ``targets`` may be of any kind,
``splitting`` holds out and draws few-label subsets, ``reading`` and ``preparation`` remember and measure, ``samples`` and
``sampling`` make batches whose randomness follows from (seed, epoch, sample) alone, ``geometry`` moves targets along with
their images, and ``streams`` hands batches out.
"""

from __future__ import annotations

from stillhouse.config.data import BlockSplit, DataSpec
from stillhouse.contract.batch import Batch, DataInfo
from stillhouse.data.batches import Data
from stillhouse.data.loader import load_data
from stillhouse.data.map_style import DatasetSource
from stillhouse.data.sources import Source, SourceRequest

__all__ = [
    "Batch",
    "BlockSplit",
    "Data",
    "DataInfo",
    "DataSpec",
    "DatasetSource",
    "Source",
    "SourceRequest",
    "load_data",
]
