"""Parameters and buffers that are not finite, found with one copy from the device."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import to_local
from stillhouse.errors import StillhouseError

__all__ = ["find_non_finite", "refuse_non_finite"]


@torch.no_grad()
def find_non_finite(module: nn.Module, *, infinite: bool = True) -> list[str]:
    """The names of the parameters of ``module`` that are not finite, and of its buffers with NaN.

    A buffer may hold infinities on purpose: attention masks do, and observers of ranges. Of parameters that are spread
    over the processes each looks at its share, so that all of them have to call this.

    Args:
        module: any.
        infinite: False lets infinities of parameters pass as well.
    """
    looks = []
    for name, parameter in module.named_parameters():
        if not is_lazy(parameter) and parameter.is_floating_point() and parameter.numel():
            own = to_local(parameter)
            looks.append((name, torch.isfinite(own).all() if infinite else ~torch.isnan(own).any()))
    looks += [
        (name, ~torch.isnan(b).any()) for name, b in module.named_buffers() if b.is_floating_point() and not is_lazy(b)
    ]
    if not looks:
        return []
    fine = parallel.sum_over_processes(torch.stack([~look for _, look in looks]).float()).eq(0).tolist()
    return [name for (name, _), ok in zip(looks, fine, strict=True) if not ok]


def refuse_non_finite(module: nn.Module) -> None:
    """Raise if any parameter of ``module`` is not finite or any buffer is NaN; one copy from the device.

    A buffer may hold infinities on purpose: attention masks do.

    Raises:
        StillhouseError: it names the tensors.
    """
    bad = find_non_finite(module)
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise StillhouseError(
            f"values that are not finite in {', '.join(bad[:3])}{more}: no checkpoint is written",
            hint="the last good one is kept; start another run with a lower learning rate or weight",
        )
