"""A frozen model's batch normalisations, folded into the convolutions before them: one pass less over each map.

In eval mode BatchNorm is an affine map of each channel, g (y - m) / sqrt(v + eps) + b, which a convolution's weight and bias can
take in. What the model holds stays as it is: parameters, buffers, modules, paths. For the length of one call of the run's own
the convolution computes with the folded weight, and the normalisation hands on what it is given; a ReLU that alone reads that
writes over it, which spares a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

from stillhouse import seeds as rng
from stillhouse.assembly.norm_pairs import NormPair, find_pairs, list_hooks
from stillhouse.assembly.snapshot import unchanged
from stillhouse.errors import StillhouseError
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.loop.taps import TapHook
from stillhouse.nested import list_tensors

__all__ = ["FoldedNorms", "fold_norms"]

_TOLERANCE = 1e-4  # of the greatest value; folding moves a float32 answer by some 1e-6 of it
_GREATEST_CHANGES = 3  # of weights; a model that changes more often is not frozen


def fold_norms(tapped: TappedModel, inputs: Any) -> FoldedNorms | None:
    """Have the frozen model of ``tapped`` called with its batch normalisations folded, until its taps are taken off.

    Args:
        tapped: the model's one way to be called, with its taps.
        inputs: a batch on its device, to find the pairs with, and to compare the answers.

    Returns:
        What calls it now; None where there is nothing to fold: no such pair, another precision than float32, hooks that
        would see other numbers, or answers that differ by more than rounding.
    """
    model = tapped.model
    if model is None or tapped.precision is not torch.float32:
        return None
    if not all(isinstance(hook, TapHook) for hooks in _list_inner_hooks(model) for hook in hooks.values()):
        return None
    with torch.no_grad(), rng.preserve_state(), unchanged(model):
        pairs = find_pairs(model, lambda: tapped.output(inputs))
        tapped.taps.take()
        if not pairs:
            return None
        folded = FoldedNorms(pairs, tapped)
        tapped.wrap_call(folded.around)
        # Where somebody else reads a normalisation's output as well, a ReLU must not write over it.
        agree = folded.prove(model, inputs, None) or (folded.leave_relus() and folded.prove(model, inputs, None))
    if not agree:
        folded.remove()
        return None
    folded.note_versions()  # putting buffers back is writing into them
    return folded


class FoldedNorms:
    """Calls a frozen model with its batch normalisations folded.

    Before each call it looks whether anything has been written into what it has folded, and folds again; whether somebody's hook
    listens anywhere within the model, or a normalisation is in train mode: then the call is a plain one. After it, whether each
    convolution's answer went where it did in the first: if not, the model is called plainly, once more and from then on.

    Attributes:
        count: how many are folded.
        active: whether a call is going on in which they are.
        pending: convolutions' answers of the call going on that have not reached their normalisation, or that its ReLU.
    """

    def __init__(
        self, pairs: Sequence[tuple[str, nn.Module, nn.Module, nn.Module | None]], tapped: TappedModel
    ) -> None:
        self.active = False
        self.pending = 0
        self.count = len(pairs)
        self._taps, self._model = tapped.taps, tapped.name
        self._names = [name for name, *_ in pairs]
        self._pairs = [NormPair(conv, norm, relu, self) for _, conv, norm, relu in pairs]
        self._norms = [pair.norm for pair in self._pairs]
        self._hooks = [] if tapped.model is None else _list_inner_hooks(tapped.model)
        self._heard = list(map(len, self._hooks))
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self._changes = -1  # the first folding is none
        self._call: Callable[..., Any] | None = None
        for pair in self._pairs:
            pair.attach()

    def around(self, call: Callable[..., Any] | None) -> FoldedNorms:
        """Take the place of ``call(model, inputs, targets)``; None: ``model(inputs)``."""
        self._call = call
        return self

    @contextmanager
    def overlook_hooks(self) -> Iterator[None]:
        """Overlook one forward hook at each of the model's modules: the run has the numbers that it has without it."""
        heard = self._heard
        self._heard = [count + (not index % 2) for index, count in enumerate(heard)]
        try:
            yield
        finally:
            self._heard = heard

    def __call__(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        """What ``model`` answers."""
        heard = list(map(len, self._hooks)) != self._heard
        if not self._pairs or heard or modules._global_forward_hooks or modules._global_forward_pre_hooks:
            return self._call_plainly(model, inputs, targets)
        if True in [norm.training for norm in self._norms]:
            self._versions = []  # its statistics move, of which torch tells nobody
            return self._call_plainly(model, inputs, targets)
        if [x._version for x in self._tensors] != self._versions and not self._fold_again(model, inputs, targets):
            return self._call_plainly(model, inputs, targets)
        return self._call_folded(model, inputs, targets)

    def _call_plainly(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        return model(inputs) if self._call is None else self._call(model, inputs, targets)

    def _call_folded(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        self.active = bool(self._pairs)
        try:
            output = model(inputs) if self._call is None else self._call(model, inputs, targets)
        finally:
            self.active = False
            went_elsewhere, self.pending = self.pending, 0
            if went_elsewhere:
                for pair in self._pairs:
                    pair.forget()
        if went_elsewhere:
            self.remove()
            return self._call_plainly(model, inputs, targets)
        return output

    def _fold_again(self, model: nn.Module, inputs: Any, targets: Any) -> bool:
        with torch.no_grad(), rng.preserve_state(), unchanged(model):
            agree = self.prove(model, inputs, targets)
        self.note_versions()  # putting buffers back is writing into them
        if not agree:
            self.remove()
        return agree

    def leave_if_moved(self) -> None:
        """After a run's first step: whoever writes through ``.data`` in each has done so once, and no call has been wrong yet."""
        if self._find_changed():
            self.remove()

    def prove(self, model: nn.Module, inputs: Any, targets: Any) -> bool:
        """Fold what the model holds now, and compare the answers to ``inputs``, and what the taps read, with the plain ones.

        Returns:
            Whether they agree, and the weights have not changed time and again.
        """
        self._changes += 1
        self.note_versions()
        for pair in self._pairs:
            pair.weight, pair.bias = pair.fold()
        if self._changes > _GREATEST_CHANGES:
            return False
        answers = []
        for call in (self._call_plainly, self._call_folded):
            output = call(model, inputs, targets)
            answers.append((list_tensors(output), list_tensors((self._taps.take(), _list_kept(model)))))
        (plain, read), (folded, read_folded) = answers
        return bool(plain and self._pairs) and _agree(plain + read, folded + read_folded)

    def note_versions(self) -> None:
        """Take what the modules hold now for what is folded."""
        self._tensors = [x for pair in self._pairs for x in pair.read()]
        self._versions = [x._version for x in self._tensors]

    def check_unchanged(self) -> None:
        """Look at the values themselves, for what was written without autograd's knowledge.

        Raises:
            StillhouseError: through ``.data``, say; it names the layer.
        """
        changed = self._find_changed()
        # Written into as usual, since the last call: the next one folds again.
        if changed and [x._version for x in self._tensors] == self._versions:
            self._refuse(changed)

    def _find_changed(self) -> str | None:
        """The first layer whose folded weight is not what the model holds."""
        with torch.no_grad():
            for name, pair in zip(self._names, self._pairs, strict=True):
                if not all(map(torch.equal, pair.fold(), (pair.weight, pair.bias))):
                    return name
        return None

    def _refuse(self, layer: str) -> NoReturn:
        raise StillhouseError(
            f"the layer {layer!r} was changed without autograd's knowledge (through .data, or by a fused optimizer) while its normalisation is folded into it",
            where=self._model,
            hint="write into the parameter itself under torch.no_grad(), or speed.fold_norms = false",
        )

    def leave_relus(self) -> bool:
        """Have ReLUs compute as ever; whether any did otherwise."""
        return True in [pair.leave_relu() for pair in self._pairs]

    def remove(self) -> None:
        """Have the modules compute as ever."""
        for pair in self._pairs:
            pair.detach()
        self._pairs, self._names = [], []


def _list_inner_hooks(model: nn.Module) -> list[dict[int, Any]]:
    """The tables of what listens within a model: what listens to the whole sees its answer alone, which is the same."""
    return [hooks for module in model.modules() if module is not model for hooks in list_hooks(module)]


def _list_kept(model: nn.Module) -> list[Tensor]:
    """What modules keep of a call as attributes, for somebody to read: a ReLU might write over it."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return [x for x in kept if x.layout is torch.strided and not x.is_quantized and not x.is_meta]


def _agree(plain: list[Tensor], folded: list[Tensor]) -> bool:
    """Whether two answers are the same up to rounding."""
    if [x.shape for x in plain] != [x.shape for x in folded]:
        return False
    for a, b in zip(plain, folded, strict=True):
        if a.is_floating_point():
            if not bool(((a - b).abs() <= _TOLERANCE * a.abs().amax()).all()) if a.numel() else False:
                return False
        elif not torch.equal(a, b):
            return False
    return True
