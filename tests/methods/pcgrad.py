"""PCGrad: gradient surgery (Yu et al., 2001.06782)."""

import torch

from stillhouse import Plugin, hookimpl, plugin


@plugin
class PcGrad(Plugin):
    """Take from each term's gradient what opposes another's: g_i <- g_i - (g_i . g_j) / |g_j|^2 g_j where g_i . g_j < 0.

    Algorithm 1, with the other terms in the order of ``step.losses`` instead of a random one.
    """

    @hookimpl
    def combine_gradients(self, step, gradients):
        flat = {name: torch.cat([g.flatten() for g in own]) for name, own in gradients.items()}
        total = 0.0
        for name, gradient in flat.items():
            for other, against in flat.items():
                if other != name:
                    share = (gradient @ against).clamp(max=0) / against.square().sum().clamp(min=1e-20)
                    gradient = gradient - share * against
            total = total + gradient
        shapes = [parameter.shape for _, parameter in step.parameters]
        pieces = total.split([shape.numel() for shape in shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
