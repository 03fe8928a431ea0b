"""Models: built by the names of a recipe, with published or saved weights; small ones in :mod:`stillhouse.models.nets`.

Imports: data and below.
Public: this package, nets, weights.
"""

from stillhouse.config.model import ModelSpec
from stillhouse.models.builder import build_model
from stillhouse.models.family import ModelFamily, ModelRequest
from stillhouse.models.nets import detector
from stillhouse.models.nets.convolutional import convnet
from stillhouse.models.nets.dense import dense_vit, unet
from stillhouse.models.nets.perceptron import mlp
from stillhouse.models.nets.transformer import vit

__all__ = [
    "ModelFamily",
    "ModelRequest",
    "ModelSpec",
    "build_model",
    "convnet",
    "dense_vit",
    "detector",
    "mlp",
    "unet",
    "vit",
]
