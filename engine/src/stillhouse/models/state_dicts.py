"""State dicts in other people's files: under which key they lie, behind which prefix, and which averages stand beside them.

Training scripts wrap a model's weights: in a table beside the optimizer's (``state_dict``, ``model``, ``model_ema``), and in
modules whose names come before each key (``module.`` of DDP, ``_orig_mod.`` of torch.compile, ``model.`` of Lightning).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs
from torch import Tensor

from stillhouse.config.kept import KeptWeights
from stillhouse.errors import StillhouseError

__all__ = ["Choice", "Found", "find_state", "find_tables"]

_DEEPEST = 3
"""Tables within tables that are looked through."""
_OTHERS = re.compile(
    r"(optim|sched|scaler|amp|criterion|loss|generators|rng|callbacks|loops|hyper_parameters|args)", re.I
)
"""Tables of tensors that are no model's."""
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|avg)([._]|$)", re.I)
_USUAL = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "params", "student")
_CRITERION = re.compile(r"(criterion|loss(_fn|_fns|es)?)[.]")
"""A loss's own keys beside a model's."""
_COUNTERS = ("n_averaged",)
"""What torch's AveragedModel keeps beside the weights."""


@attrs.frozen(kw_only=True)
class Choice:
    """Which of a file's state dicts, and of a run's weights, is wanted; None is found out.

    Attributes:
        averaged: averaged weights where there are some (None and True; True insists on them), or the plain ones.
        prefix: what comes before each of the model's keys.
        weights: of a run's folder: see :func:`stillhouse.models.weights.find_weights`.
    """

    averaged: bool | None = None
    prefix: str | None = None
    weights: KeptWeights | None = None


@attrs.frozen(eq=False)
class Found:
    """A model's state dict, and where it was.

    Attributes:
        state: tensors by the model's own keys.
        table: where in the file it lies, such as ``state_dict`` or ``ema.module``; empty: it is the file.
        prefix: what came before each key.
        averaged: whether these are averaged weights.
        others: tables of the other kind, averaged or plain, that stand beside it.
        left_out: keys of the table that are not behind the prefix.
        rivals: further tables of the same kind that would have fitted as well.
    """

    state: dict[str, Any]
    table: str = ""
    prefix: str = ""
    averaged: bool = False
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """What was chosen and changed, in words; nothing of a state dict that needs neither."""
        told = []
        if self.rivals:
            told.append(f"of several state dicts that fit, {self.table!r} is taken, and not {_list(self.rivals)}")
        if self.others:
            kind, key = ("averaged", "false") if self.averaged else ("plain", "true")
            told += [
                f"{kind} weights under {self.table!r}; averaged = {key} takes {' or '.join(map(repr, self.others))}"
            ]
        if self.prefix:
            told.append(f"the prefix {self.prefix!r} taken off every key")
        if self.left_out:
            more = f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
            told.append(f"left out, being none of the model's: {', '.join(self.left_out[:3])}{more}")
        return told


def find_tables(content: Mapping[str, Any], path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Find the tables of tensors in a file's ``content`` that may be a model's, each with its place."""
    own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if own:
        yield path, own
    if depth >= _DEEPEST:
        return
    for key, value in content.items():
        if isinstance(value, Mapping) and not _OTHERS.match(str(key)):
            yield from find_tables(value, f"{path}.{key}" if path else str(key), depth + 1)


def find_state(content: Mapping[str, Any], own: Collection[str], choice: Choice | None = None) -> Found:
    """Find the state dict of a model whose keys are ``own``.

    Where nothing in the file has any of these keys, the largest table is returned without the one prefix that all its keys
    have in common, so that what does not fit can be said.

    Args:
        content: a file's, as plain data.
        own: the model's keys; empty: they are not known.
        choice: which is wanted where there are several.

    Raises:
        StillhouseError: there are no averaged weights and some are insisted on, the wanted prefix comes before no key, or
            two prefixes fit equally well.
    """
    choice = choice or Choice()
    tables = dict(find_tables(content)) or {"": dict(content)}
    fits = {path: _fit(table, own, choice.prefix) for path, table in tables.items()}
    most = max(len(found.state) if own else len(tables[path]) for path, (found, _) in fits.items())
    # The same model's plain and averaged weights have one number of keys.
    equal = [path for path, (found, _) in fits.items() if (len(found.state) if own else len(tables[path])) == most]
    if own and most == 0:
        equal = [max(tables, key=lambda path: len(tables[path]))]
        if choice.prefix:
            raise StillhouseError(
                f"comes before none of the model's keys, got {choice.prefix!r}",
                where="prefix",
                hint=f"the file's keys begin {', '.join(map(repr, list(tables[equal[0]])[:3]))}",
            )
        fits[equal[0]] = _without_common_prefix(tables[equal[0]]), ()
    averages = [path for path in equal if _AVERAGED.search(path)]
    plain = [path for path in equal if path not in averages]
    if choice.averaged and not averages:
        raise StillhouseError("the file has no averaged weights", where="averaged", hint=f"it has {_list(plain)}")
    takes_averages = bool(averages) and (choice.averaged is not False or not plain)
    among, others = (averages, plain) if takes_averages else (plain, averages)
    path = min(among, key=_rank)
    found, rivals = fits[path]
    if rivals:
        raise StillhouseError(
            f"the model's keys come behind more than one prefix: {', '.join(map(repr, rivals))}",
            where="prefix",
            hint=f"prefix = {_quote(rivals[0])} takes one of them",
        )
    more = tuple(other for other in among if other != path) if own else ()
    return attrs.evolve(found, table=path, averaged=takes_averages, others=tuple(others), rivals=more)


def _rank(path: str) -> tuple[int, int, str]:
    first = path.partition(".")[0]
    return (_USUAL.index(first) if first in _USUAL else len(_USUAL), path.count("."), path)


def _fit(table: Mapping[str, Any], own: Collection[str], prefix: str | None) -> tuple[Found, tuple[str, ...]]:
    """What of ``table`` a model with the keys ``own`` has, and the prefixes that fit equally well."""
    if not own:
        return _without_common_prefix(table) if prefix is None else _behind(table, prefix), ()
    if prefix is not None:
        found = _behind(table, prefix)
        return attrs.evolve(found, state=found.state if any(key in own for key in found.state) else {}), ()
    by_last: dict[str, list[str]] = {}
    for key in own:
        by_last.setdefault(key.rpartition(".")[2], []).append(key)
    counts: Counter[str] = Counter()
    for key in table:
        for name in by_last.get(key.rpartition(".")[2], ()):
            before = key[: len(key) - len(name)]
            if key.endswith(name) and (not before or before.endswith(".")):
                counts[before] += 1
    if not counts:
        return Found({}), ()
    most = max(counts.values())
    best = sorted((p for p, n in counts.items() if n == most), key=lambda p: (len(p), p))
    found = _behind(table, best[0])
    if best[0] == "" or len(best) == 1:
        if best[0]:
            return found, ()
        # A state dict of the model itself keeps its strange keys, which loading it names.
        strange = tuple(key for key in table if key not in own and _CRITERION.match(key))
        return Found({k: v for k, v in table.items() if k not in (*_COUNTERS, *strange)}, left_out=strange), ()
    return found, tuple(best)


def _behind(table: Mapping[str, Any], prefix: str) -> Found:
    state = {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}
    left = tuple(key for key in table if not key.startswith(prefix) and key not in _COUNTERS)
    return Found(state, prefix=prefix, left_out=left)


def _without_common_prefix(table: Mapping[str, Any]) -> Found:
    keys = [key for key in table if key not in _COUNTERS]
    prefix = ""
    while keys and all(key.startswith(prefix) for key in keys):
        first = keys[0][len(prefix) :].partition(".")
        longer = prefix + first[0] + first[1]
        if not first[1] or not all(key.startswith(longer) for key in keys):
            break
        prefix = longer
    return _behind(table, prefix)


def _list(paths: Collection[str]) -> str:
    return ", ".join(repr(path) for path in paths if path) or "one state dict"


def _quote(text: str) -> str:
    return f'"{text}"'
