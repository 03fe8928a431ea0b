"""Data: what is read, how it is split and augmented, and the streams of batches.

``datasets`` is the front: the recipe's ``[data]`` and :func:`load_data`. Behind it, ``catalogue`` turns a name into a
source (``sources``, ``imagefolder``), ``splitting`` holds out and draws few-label subsets, ``preparation`` measures and
remembers, ``samples`` and ``sampling`` make batches whose randomness follows from (seed, epoch, sample) alone.
"""

from __future__ import annotations

from stillhouse.data.datasets import Batch, Data, DataInfo, DataSpec, load_data

__all__ = ["Batch", "Data", "DataInfo", "DataSpec", "load_data"]
