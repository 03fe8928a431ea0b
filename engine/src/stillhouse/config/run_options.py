"""Optional tables of the recipe: ``[speed]``, ``[ema]``, ``[early_stopping]``, ``[watch]``."""

from __future__ import annotations

from typing import Literal

import attrs

from stillhouse.config.fields import strict_fields
from stillhouse.errors import Fault, StillhouseError, raise_faults

__all__ = ["CompileArgs", "EarlyStoppingSpec", "EmaSpec", "SpeedSpec", "WatchSpec"]


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class CompileArgs:
    """The recipe's ``[speed] compile_args``: arguments of torch.compile.

    Attributes:
        mode: ``reduce-overhead`` replays CUDA graphs, ``max-autotune`` tries several kernels as well.
        fullgraph: a part that cannot be compiled is an error, instead of a break of the graph.
        dynamic: one program for all sizes; None: sizes are fixed until a second one comes.
        backend: ``inductor``, or another of ``torch.compiler.list_backends``.
    """

    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    fullgraph: bool = False
    dynamic: bool | None = None
    backend: str = "inductor"


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class SpeedSpec:
    """The recipe's ``[speed]``: the same run, computed otherwise. Results agree up to rounding.

    Attributes:
        channels_last: images and convolutions with the channels last in memory; shapes stay (B, C, H, W).
        compile: the models to compile by torch.compile: ``none``, ``student``, ``teacher`` or ``both``. In place, after
            the taps are attached, so that layers, checkpoints and taps stay as they are. ``step``: both, with links,
            transforms and losses, as one program, and its backward pass as another.
        compile_args: see :class:`CompileArgs`.
        compile_fallback: go on without where compiling fails, with a warning; else it is an error.
        checkpoint_gradients: compute the insides of the student's blocks again on the way back, instead of keeping them: less
            memory, some third more time. By the model's own means (timm's, transformers'), else by torch around each of the
            blocks that it has in a row, as torchvision's models do.
        fold_norms: have teachers called with their batch normalisations folded into the convolutions before them, in float32
            and where no compiler does so: it saves a pass over each map. Their answers move by some 1e-6 of their size, which
            is looked at before; their weights stay as they are.
        teacher_precision: dtype of the teacher's forward pass, by autocast as in ``[run] precision``; ``same``: that one.
    """

    channels_last: bool = False
    compile: Literal["none", "student", "teacher", "both", "step"] = "none"
    compile_args: CompileArgs = attrs.field(factory=CompileArgs)
    compile_fallback: bool = False
    checkpoint_gradients: bool | None = None
    fold_norms: bool = True
    teacher_precision: Literal["same", "float32", "bfloat16", "float16"] = "same"

    def compiles(self, which: Literal["student", "teacher"]) -> bool:
        """Whether ``which`` model is compiled."""
        return self.compile in (which, "both")


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class EmaSpec:
    """The recipe's ``[ema]``: an exponential moving average of the student's weights and statistics.

    Attributes:
        decay: the share of the average that stays at each optimizer step, in [0, 1).
        warmup: begin with less: the n-th update keeps at most (1 + n) / (10 + n), so that a short run's average is not
            its random start.
        evaluate: ``beside``: the average is measured as splits of its own, ``val_ema`` and ``test_ema``; ``instead``: it
            replaces the student in measurements, in `best` and early stopping, and as the run's result.
    """

    decay: float = 0.999
    warmup: bool = True
    evaluate: Literal["beside", "instead"] = "beside"

    def __attrs_post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise StillhouseError(
                f"must be in [0, 1), got {self.decay}", where="decay", hint="0.999 averages some 1,000 steps"
            )


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class EarlyStoppingSpec:
    """The recipe's ``[early_stopping]``: end the run when the validation score no longer improves.

    Attributes:
        patience: so many measurements of the validation split without improvement end the run: epochs, unless
            ``run.validate_every`` leaves some out.
        min_delta: an epoch counts as improvement when the score is better by more than this than before.
        cumulative: compare with the last improvement, so that many small ones count; else with the best so far.
    """

    patience: int = 10
    min_delta: float = 0.0
    cumulative: bool = False

    def __attrs_post_init__(self) -> None:
        faults = []
        if self.patience < 1:
            faults.append(Fault("patience", f"must be >= 1, got {self.patience}"))
        if self.min_delta < 0.0:
            faults.append(Fault("min_delta", f"must be >= 0, got {self.min_delta}"))
        raise_faults(faults)


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class WatchSpec:
    """The recipe's ``[watch]``: looks at what every plugin does, on a few steps; they change nothing of the result.

    Attributes:
        enabled: false looks at nothing; so does a run without the distribution ``stillhouse-watcher``.
        budget: the share of the training's time that looks may take, above 0 and at most 1, beside the two that every
            run has, at its begin and its end.
        every: look every so many steps instead, whatever that takes; at the next step that is logged. 0: as ``budget``
            allows.
        gradients: take each loss term's own gradient at a look, by a backward pass of its own; false where a model keeps
            nothing for a second one.
    """

    enabled: bool = True
    budget: float = 0.005
    every: int = 0
    gradients: bool = True

    def __attrs_post_init__(self) -> None:
        faults = []
        if not 0.0 < self.budget <= 1.0:
            hint = "0.005 is half a percent of the time; enabled = false looks at nothing"
            faults.append(Fault("budget", f"must be above 0 and at most 1, got {self.budget}", hint))
        if self.every < 0:
            faults.append(Fault("every", f"must be >= 0, got {self.every}", "0 looks as often as the budget allows"))
        raise_faults(faults)
