"""One mistake at a time in plain tables, as people make them and as nobody does."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import attrs

__all__ = ["ODD", "Keys", "mutate"]

_INFINITE = float("inf")
ODD: list[Any] = [
    *[0, -1, 1, 2, 3, 7, 0.0, -0.0, 0.5, 1.0, True, False],
    *[1e308, -1e308, 1e-308, math.nan, _INFINITE, -_INFINITE],
    *[2**31, 2**63, 2**63 - 1, -(2**63), 2**64, 10**30, 10**5000],
    *["", " ", "a" * 5000, "\u202eabc", "ß∂ƒ", "\x1b[31mred", "\n", "\0", "\ud800", "[bold]", ":smile:", "%s%n", "{0}"],
    *[
        "../../etc",
        "/",
        "/dev/null",
        "/etc/passwd",
        "~",
        "~nobody/x",
        "~/x",
        "C:\\x",
        ".",
        "a.b.c",
        "*",
        "**",
        "[",
        "(",
    ],
    *[
        ":",
        "os:system",
        "sys:exit",
        "builtins:exit",
        "builtins:dict",
        "builtins:print",
        "os:abort_",
        "stillhouse.models:",
    ],
    *["stillhouse", "stillhouse.models:convnet", "timm:resnet18", "torchvision:resnet18", "transformers:ViTModel"],
    *[
        "folder:",
        "folder:/nowhere",
        "pairs:/nowhere",
        "photos:",
        "sklearn:digits",
        "sklearn:nope",
        "none",
        "auto",
        "nan",
    ],
    *["cuda", "mps", "meta", "cpu:7", "cpu:-1", "xla", "{}", [], {}, [[]], [{}], {"": 0}, [0], [1, 2], ["a"], [1, "x"]],
    *[{"a": {"b": {"c": [1, 2, {"d": []}]}}}, {"peak": -1}, {"peak": 1e308}, {"use": "features"}],
    *[{"student": "stage3", "teacher": "stage3"}, {"recipe": "digits-teacher.toml"}, {"recipe": {}}],
]

Place = tuple[Any, ...]
Keys = list[tuple[str, str, Any]]
"""A table that a recipe may have, a key of it, and a value of that key."""


def mutate(tables: dict[str, Any], keys: Keys, chance: random.Random) -> dict[str, Any]:
    """Return a copy with one to three mistakes."""
    mutation = Mutation(copy.deepcopy(tables), keys, chance)
    for _ in range(chance.choice([1, 1, 1, 1, 2, 2, 3])):
        if list(_walk(mutation.tables)):
            change = chance.choice(_CHANGES)
            change(mutation)
            if change is Mutation.bury:  # Python cannot copy what lies that deep
                break
    return mutation.tables


def _walk(value: Any, path: Place = ()) -> Iterator[Place]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:20]:
        yield (*path, key)
        if len(path) < 8:
            yield from _walk(inner, (*path, key))


def _write(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python writes
        return "9" * 5000


@attrs.define
class Mutation:
    """Tables that are changed in place, at a place that chance chooses."""

    tables: dict[str, Any]
    keys: Keys
    chance: random.Random

    def at(self, path: Place) -> Any:
        """Return what lies there."""
        value: Any = self.tables
        for key in path:
            value = value[key]
        return value

    def choose(self, *kinds: type) -> tuple[Any, Any, Any] | None:
        """Return a table or list, a key in it, and the value; of one of ``kinds``, if any are given."""
        places = [path for path in _walk(self.tables) if not kinds or type(self.at(path)) in kinds]
        if not places:
            return None
        path = self.chance.choice(places)
        return self.at(path[:-1]), path[-1], self.at(path)

    def make_odd(self, like: Any) -> Any:
        """Return an odd value, mostly of the same type: another is found out at once."""
        alike = [value for value in ODD if type(value) is type(like)]
        return copy.deepcopy(self.chance.choice(alike if alike and self.chance.random() < 0.7 else ODD))

    def odd(self) -> None:
        """Put an odd value in place of one."""
        parent, last, value = self.choose() or ({}, "", 0)
        parent[last] = self.make_odd(value)

    def foreign(self) -> None:
        """Set a key that the recipe lacks."""
        table, key, like = self.chance.choice(self.keys)
        if not isinstance(self.tables.get(table), dict):
            self.tables[table] = {}
        self.tables[table][key] = self.make_odd(like)

    def delete(self) -> None:
        """Take a key away."""
        parent, last, _ = self.choose() or ({0: 0}, 0, 0)
        del parent[last]

    def double(self) -> None:
        """Repeat an item, or a key under another name."""
        parent, last, value = self.choose() or ({}, "", 0)
        if isinstance(parent, list):
            parent.append(copy.deepcopy(value))
        else:
            parent[f"{last}2"] = copy.deepcopy(value)

    def rename(self) -> None:
        """Misspell a key."""
        parent, last, _ = self.choose() or ([], "", 0)
        if isinstance(parent, dict):
            names = [
                last[:-1],
                f"{last}s",
                last.upper(),
                "",
                f" {last}",
                last.replace("_", "-"),
                "a.b",
                "\x1b[2J",
                "use",
            ]
            parent[self.chance.choice(names)] = parent.pop(last)

    def swap(self) -> None:
        """Exchange two values."""
        places = list(_walk(self.tables))
        one, other = self.chance.choice(places), self.chance.choice(places)
        if one != other[: len(one)] and other != one[: len(other)]:
            a, b = self.at(one[:-1]), self.at(other[:-1])
            a[one[-1]], b[other[-1]] = b[other[-1]], a[one[-1]]

    def scale(self) -> None:
        """Change a number."""
        parent, last, value = self.choose(int, float) or ({}, "", 0)
        value = max(min(value, 10**300), -(10**300))  # what was scaled before may be beyond floats
        by = [value * 10, -value, value / 3, value * 1_000_000, value + 1, value - 1, value * 1.0]
        parent[last] = self.chance.choice(by)

    def wrap(self) -> None:
        """Make a list, a table or a text of a value."""
        parent, last, value = self.choose() or ({}, "", 0)
        parent[last] = self.chance.choice([[value], {"x": value}, _write(value), [value, copy.deepcopy(value)]])

    def bury(self) -> None:
        """Nest deeply."""
        parent, last, _ = self.choose() or ({}, "", 0)
        value: Any = 1
        for _ in range(self.chance.choice([5, 60, 100, 800, 3000])):
            value = [value] if self.chance.random() < 0.5 else {"a": value}
        parent[last] = value

    def spell(self) -> None:
        """Misspell a text."""
        parent, last, text = self.choose(str) or ({}, "", "")
        spelt = [text[::-1], f"{text}x", text[:-1], text.upper(), text * 300, f"{text}\n", f"{text}\0", f":{text}"]
        parent[last] = self.chance.choice([*spelt, text.replace(":", "::"), f"{text}:", f"./{text}"])

    def move(self) -> None:
        """Copy a value into another table."""
        _, last, value = self.choose() or ({}, "", 0)
        tables = [path for path in _walk(self.tables) if isinstance(self.at(path), dict)]
        self.at(self.chance.choice([(), *tables]))[str(last)] = copy.deepcopy(value)


_ONCE: list[Callable[[Mutation], None]] = [
    *[Mutation.delete, Mutation.double, Mutation.rename, Mutation.swap, Mutation.wrap, Mutation.move, Mutation.bury]
]
_CHANGES = [*[Mutation.odd] * 8, *[Mutation.foreign] * 4, *[Mutation.scale, Mutation.spell] * 2, *_ONCE]
