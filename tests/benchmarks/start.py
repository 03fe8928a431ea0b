"""From the command to its first result: processor time of whole processes, beside importing torch and making an optimizer."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from _bench import report
from _commands import run_python, write_photographs

TURNS = 4
MOST = 1.3
"""What explaining a run, and training to its first step, may cost over the least that any trainer pays."""

BASE = "import torch; torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)"
SAYS_TIME = "import os, time; print(time.process_time(), flush=True); os._exit(0)"
FIRST_STEP = """
import os, time
from stillhouse import Plugin, hookimpl, plugin

@plugin
class FirstStep(Plugin):
    @hookimpl
    def optimizer_stepped(self, step):
        print(time.process_time(), flush=True)
        os._exit(0)
"""
RECIPE = """
[run]
name = "start"
epochs = 2
device = "cpu"
threads = 1

[data]
{data}
batch_size = 32

[student]
model = "convnet"
args = {{ width = 8 }}

[teacher]
model = "convnet"
args = {{ width = 16 }}
random = true

[[plugins]]
use = "features"
links = [{{ student = "stage3", teacher = "stage3" }}]

[[plugins]]
use = "projector"

[[plugins]]
use = "logits"
"""
DATA = {
    "digits": 'name = "sklearn:digits"',
    "photographs": 'name = "folder:photographs"\nsize = 32\ntransforms = [{ use = "RandomHorizontalFlip" }]',
}
API = "import stillhouse; stillhouse.train(stillhouse.load_recipe('digits-step.toml'), out={out!r})"

Case = tuple[str, list[str], bool]
"""A row's name, the words after ``python``, and whether its process says its time at the first step, and ends there."""


def list_cases(turn: int) -> list[Case]:
    """The processes of one turn; the first two are what the others are compared with."""
    command = ["-m", "stillhouse"]
    train = [*command, "train", "--quiet", "--out"]
    return [
        ("`import torch` and an optimizer", ["-c", BASE], False),
        ("the same, until it is there", ["-c", f"{BASE}; {SAYS_TIME}"], True),
        ("`stillhouse --help`", [*command, "--help"], False),
        ("`stillhouse plugins`", [*command, "plugins"], False),
        ("`Recipe.load`", ["-c", "import stillhouse; stillhouse.Recipe.load('digits.toml')"], False),
        ("`stillhouse ablate --list`", [*command, "ablate", "digits.toml", "--list"], False),
        ("`stillhouse compare`", [*command, "compare", "finished"], False),
        ("`stillhouse explain`, digits", [*command, "explain", "digits.toml"], False),
        ("`stillhouse explain`, photographs, flipped", [*command, "explain", "photographs.toml"], False),
        ("`stillhouse train`, digits", [*train, f"digits-{turn}", "digits-step.toml"], True),
        ("`stillhouse train`, photographs, flipped", [*train, f"photographs-{turn}", "photographs-step.toml"], True),
        ("`train` from Python, digits", ["-c", API.format(out=f"api-{turn}")], True),
    ]


def measure(folder: Path) -> dict[str, tuple[list[float], bool]]:
    """Seconds of processor time of each case, turn by turn, and whether they go to the first step alone."""
    write_photographs(folder / "photographs", train=80, val=40)
    (folder / "first_step.py").write_text(FIRST_STEP)
    for name, data in DATA.items():
        whole = RECIPE.format(data=data)
        (folder / f"{name}.toml").write_text(whole)
        (folder / f"{name}-step.toml").write_text(f'{whole}\n[[plugins]]\nuse = "first_step:FirstStep"\n')
    run_python("-m", "stillhouse", "train", "digits.toml", "--out", "finished", "--quiet", folder=folder)
    found: dict[str, tuple[list[float], bool]] = {}
    for turn in range(TURNS):
        for name, words, says in list_cases(turn):
            ended = run_python(*words, folder=folder)
            found.setdefault(name, ([], says))[0].append(float(ended.output) if says else ended.processor)
    return found


def main() -> None:
    """Measure, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    whole, until = (seconds for seconds, _ in list(found.values())[:2])
    rows, missed = [], []
    for name, (seconds, says) in found.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, until if says else whole, strict=True)]
        ratio = statistics.median(ratios)
        end = "first step" if says else "end"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append((name, end, f"{statistics.median(seconds):.2f} s", f"x{ratio:.2f} ({spread})"))
        missed += [f"{name}: x{ratio:.2f}"] if ratio > MOST and "from Python" not in name else []
    report(
        "What a command costs before it does anything",
        ("process", "to its", "processor time", "of torch alone"),
        rows,
        [
            f"Processes with one thread, {TURNS} turns of each, interleaved: medians, and medians of ratios within a turn with the least",
            "and the greatest. Those that are timed to their end are set beside the first row, which ends as they do; those to the",
            "first optimizer step beside the second. Data and models are small: what is left is Python, its imports and the engine.",
            "",
            f"Bound for `explain` and `train`: x{MOST}. {'Missed: ' + '; '.join(missed) if missed else 'All are within it'}. The command imports",
            "without looking for garbage in what is imported, which is why it may take less than torch alone; a program of one's own",
            "does so by `gc.disable()` before and `gc.freeze()` after its imports: the last row does not.",
        ],
    )


if __name__ == "__main__":
    main()
