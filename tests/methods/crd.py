"""CRD: contrastive representation distillation (Tian et al., 1910.10699)."""

import torch
from torch import nn
from torch.nn import functional as F

from stillhouse import Plugin, Weight, hookimpl, plugin
from stillhouse.layout import channels


class Banks(nn.Module):
    """Two embeddings, and the last one of every training sample on both sides."""

    def __init__(self, rows, widths, dim, temperature):
        super().__init__()
        self.rows, self.temperature = rows, temperature
        self.heads = nn.ModuleList(nn.Linear(width, dim) for width in widths)
        for i in range(2):
            self.register_buffer(f"bank{i}", F.normalize(torch.randn(rows.count, dim)))
            self.register_buffer(f"constant{i}", torch.zeros(()))

    def contrast(self, which, anchor, index):
        """The noise-contrastive loss of ``anchor`` (B, D) against the bank of the side ``which``, at ``index`` (B, 1+K)."""
        bank, constant = self.get_buffer(f"bank{which}"), self.get_buffer(f"constant{which}")
        h = (torch.einsum("bd,bkd->bk", anchor, bank[index]) / self.temperature).exp()
        constant.copy_(torch.where(constant == 0, h.detach().mean() * self.rows.count, constant))
        h, noise = h / constant.clone(), (index.shape[1] - 1) / self.rows.count
        return -(h[:, 0] / (h[:, 0] + noise)).log().mean() - (noise / (h[:, 1:] + noise)).log().sum(1).mean()


@plugin
class Crd(Plugin):
    """Tell a sample's pair of embeddings from pairs with other samples: equation 18, on one link, in one process."""

    requires = ("links", "ids")
    link: str = "*"
    dim: int = 16
    negatives: int = 8
    temperature: float = 0.1
    momentum: float = 0.5
    weight: Weight = 0.5

    @hookimpl
    def build(self, assembly):
        (link,) = assembly.match(self.link)
        widths = channels(link.student), channels(link.teacher)
        return Banks(assembly.rows, widths, self.dim, self.temperature)

    @hookimpl
    def losses(self, step):
        (link,), banks = step.match(self.link), step.module(self)
        own = banks.rows(step.ids).to(link.student.device)
        index = torch.cat([own[:, None], torch.randint(len(banks.rows), (len(own), self.negatives)).to(own.device)], 1)
        s, t = (F.normalize(head(x.float())) for head, x in zip(banks.heads, (link.student, link.teacher), strict=True))
        loss = banks.contrast(1, s, index) + banks.contrast(0, t, index)
        with torch.no_grad():  # the graph has copies of the rows, not the banks themselves
            for bank, x in ((banks.bank0, s), (banks.bank1, t)):
                bank[own] = F.normalize(self.momentum * bank[own] + (1 - self.momentum) * x)
        return {"": loss}
