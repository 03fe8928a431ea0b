"""What goes wrong in a step and is no message yet, said so that it can be acted on: memory, compilation, writes to what is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from attrs.exceptions import FrozenInstanceError

from stillhouse.errors import StillhouseError, first_line
from stillhouse.layout import format_shape

if TYPE_CHECKING:
    from stillhouse.config.recipe import Recipe
    from stillhouse.contract.assembly import Facts

__all__ = ["explained", "is_out_of_memory", "out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory is not enough: a GPU's or, as torch or Python say it, the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def out_of_memory(error: BaseException, facts: Facts) -> StillhouseError:
    """The error for memory that is not enough: what was tried, and what to lower."""
    recipe = facts.recipe
    shape = format_shape(torch.empty((recipe.data.batch_size, *facts.data.input_shape), device="meta"))
    specs = recipe.all_teachers
    teachers = "".join(f", {n} {_model(specs.get(n))} ({_millions(m)})" for n, m in facts.all_teachers.items())
    peak = ""
    if facts.device.type == "cuda" and torch.cuda.is_available():
        allocated, total = torch.cuda.max_memory_allocated(facts.device), torch.cuda.mem_get_info(facts.device)[1]
        peak = f"; torch held up to {allocated / 2**30:.1f} of {total / 2**30:.1f} GiB"
    return StillhouseError(
        f"out of memory with batches of {shape} in {recipe.run.precision}, "
        f"student {recipe.student.model} ({_millions(facts.student)}){teachers}{peak}: {first_line(error)}",
        where=str(facts.device),
        hint=_what_to_lower(recipe, teacher=bool(teachers)),
    )


def _what_to_lower(recipe: Recipe, *, teacher: bool) -> str:
    parts = getattr(recipe.run, "accumulate", 1)
    ways = [f"[run] accumulate = {2 * parts} takes the same batch in smaller parts"]
    if recipe.data.batch_size > 1:
        ways.append(f"[data] batch_size = {max(1, recipe.data.batch_size // 2)}")
    if recipe.run.precision == "float32":
        ways.append('[run] precision = "bfloat16"')
    if teacher and recipe.run.precision == "float32" and recipe.speed.teacher_precision in ("same", "float32"):
        ways.append('[speed] teacher_precision = "bfloat16"')
    ways.append("a smaller [data] size, or a narrower model")
    return "; ".join(ways)


def _model(spec: Any) -> str:
    return getattr(spec, "model", None) or "of a recipe"


def _millions(model: torch.nn.Module) -> str:
    count = sum(p.numel() for p in model.parameters())
    return f"{count / 1e6:.1f} M parameters" if count >= 1e6 else f"{count} parameters"


@contextmanager
def explained(facts: Facts) -> Iterator[None]:
    """Turn an error of memory, of compilation or of a write to frozen options that leaves the block into one that says what to do.

    Raises:
        StillhouseError: in place of these; other errors pass.
    """
    try:
        yield
    except StillhouseError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise _with_notes(out_of_memory(error, facts), error) from error
        if isinstance(error, FrozenInstanceError):
            raise _with_notes(_frozen(error), error) from error
        if facts.recipe.speed.compile != "none" and isinstance(error, torch._dynamo.exc.TorchDynamoException):
            found = StillhouseError(
                f"torch.compile failed for a batch of another size or in evaluation: {first_line(error)}",
                where="speed.compile",
                hint='compile = "none"; or drop_last = true and the same eval_batch_size',
            )
            raise _with_notes(found, error) from error
        if isinstance(error, ValueError) and str(error).startswith("Expected more than 1 value per channel"):
            plugin = any(note.startswith("in plugin") for note in getattr(error, "__notes__", ()))
            whose = "a plugin" if plugin else "the student"
            found = StillhouseError(
                f"a BatchNorm of {whose} has one value a channel to take statistics of: {first_line(error)}",
                where="data.batch_size",
                hint="2 samples or more in each process and part of a batch"
                + (', labelled ones with data.terms = "labelled"' if plugin else ", or a student without BatchNorm"),
            )
            raise _with_notes(found, error) from error
        raise


def _frozen(error: FrozenInstanceError) -> StillhouseError:
    """Which attribute of whose options was to be written: attrs names neither, and its own frame has both."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    seen = frame.tb_frame.f_locals if frame is not None else {}
    return StillhouseError(
        f"the attribute {seen.get('name', '')!r} cannot be written: options are frozen",
        where=f"class {type(seen.get('self')).__name__}",
        hint="keep what changes in the module that build returns, as a buffer, and what one hook leaves another in step.memo",
    )


def _with_notes(found: StillhouseError, error: BaseException) -> StillhouseError:
    for note in getattr(error, "__notes__", []):  # which plugin's hook, and in which step
        found.add_note(note)
    return found
