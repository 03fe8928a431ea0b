"""Data: samples are found, split, augmented and streamed as batches.

``loader`` turns the recipe's ``[data]`` into :class:`Data`, those of ``batches`` or, from Python's own loaders, of ``given_loaders``. Behind it, ``catalogue`` finds a source by its name
(``openers`` has ours), whose ``targets`` may be of any kind: ``files`` lists folders by one rule, ``images`` reads images as they
are seen, ``inspection`` looks at samples before training; ``splits`` holds out and draws few-label subsets, ``memory`` and
``statistics`` remember and measure, ``samples`` and ``sampler`` make batches whose randomness follows from (seed, epoch,
sample) alone, and ``streams`` hands batches out. Of the augmentation, ``augmentation`` builds what a recipe names,
``transform_chain`` runs it in ``transform_stages``, by batch where ``batch_forms`` has a form of the same pixels (``windows``
for crops and flips, ``kernels``, ``colour`` and ``warps`` for the others), and ``geometry`` moves targets along with their images.

Imports: registry and below.
Public: this package.
"""

from __future__ import annotations

from stillhouse.config.data import BlockSplit, DataSpec
from stillhouse.contract.batch import Batch, DataInfo
from stillhouse.data.base import Data
from stillhouse.data.loader import load_data
from stillhouse.data.map_style import DatasetSource
from stillhouse.data.sources import Part, Source, SourceRequest
from stillhouse.nested import PartlyLabelled

__all__ = [
    "Batch",
    "BlockSplit",
    "Data",
    "DataInfo",
    "DataSpec",
    "DatasetSource",
    "Part",
    "PartlyLabelled",
    "Source",
    "SourceRequest",
    "load_data",
]
