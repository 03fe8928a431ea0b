"""Small networks with named stages that train on small images within seconds or minutes on one core.

``convnet``, ``vit`` and ``mlp`` classify; ``unet`` and ``dense_vit`` give maps, ``detector`` boxes.

Imports: errors and layout.
Public: this package.
"""

from stillhouse.models.nets.convolutional import ConvEncoder, ConvNet, convnet
from stillhouse.models.nets.dense import DenseVit, UNet, dense_vit, unet
from stillhouse.models.nets.detector import Pyramid, detector
from stillhouse.models.nets.perceptron import Mlp, mlp
from stillhouse.models.nets.transformer import VisionTransformer, VitEncoder, vit

__all__ = [
    "ConvEncoder",
    "ConvNet",
    "DenseVit",
    "Mlp",
    "Pyramid",
    "UNet",
    "VisionTransformer",
    "VitEncoder",
    "convnet",
    "dense_vit",
    "detector",
    "mlp",
    "unet",
    "vit",
]
