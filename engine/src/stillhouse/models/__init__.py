"""Models: how a recipe names one, how it is built, and small ones of our own (see :mod:`stillhouse.nets`)."""

from stillhouse.models.building import build_model
from stillhouse.models.spec import ModelSpec
from stillhouse.nets import convnet, dense_vit, detector, mlp, unet, vit

__all__ = ["ModelSpec", "build_model", "convnet", "dense_vit", "detector", "mlp", "unet", "vit"]
