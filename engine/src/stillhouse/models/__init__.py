"""Models: how a recipe names one, how it is built, and small ones of our own (see :mod:`stillhouse.models.nets`)."""

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
