"""The demo: a small student on few labelled digits, alone and distilled by VkD, over paired seeds.

``make demo`` runs it. Each seed draws its own ten images a class and its own initial student; alone and distilled share
both, so the difference of a pair is the method's. The teacher is trained once and kept in the cache.

A demonstration, not an experiment. The number of labels was picked from three that were tried on the validation split, and
the seeds were raised from 10 to 20 after the interval over the first 10 had held zero: read the interval accordingly.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import t as student_t

from stillhouse import Result, StillhouseError, load_recipe, prepare, train

RECIPE = Path(__file__).parent / "recipes" / "digits-vkd.toml"
SEEDS = range(20)
CONFIDENCE = 0.95


def run(seed: int, plugins: str | None, name: str) -> Result:
    """One run; the first seed's is kept in ``runs/`` to be looked at."""
    recipe = load_recipe(
        RECIPE, overrides=[f"run.seed={seed}", f"run.name={name}", "run.log_every=10"], plugins=plugins
    )
    keep = seed == SEEDS[0]
    return train(recipe, out=Path("runs") / name, write=keep, resume=keep)


def teachers_accuracy() -> float:
    """Accuracy of the teacher on the test images, in percent; trains it where it is not in the cache yet."""
    training = prepare(load_recipe(RECIPE), write=False)
    with torch.no_grad():
        hits = [training.run.teacher(b.input).argmax(1) == b.target for b in training.data.evaluation("test")]
    training.close()
    return torch.cat(hits).float().mean().item() * 100


def interval(differences: list[float]) -> float:
    """Half the width of the confidence interval of the mean of ``differences`` (Student's t)."""
    n = len(differences)
    return float(student_t.ppf((1 + CONFIDENCE) / 2, n - 1)) * statistics.stdev(differences) / n**0.5


def main() -> int:
    """Train and print the table."""
    torch.set_num_threads(1)  # these models are too small for a second thread to help
    console = Console()
    recipe = load_recipe(RECIPE)
    console.print(f"Recipe [bold]{RECIPE.name}[/]: {recipe.data.per_class} labelled images a class, plugins:")
    for plugin in recipe.plugins:
        console.print("  " + ", ".join(f"{k} = {v}" for k, v in plugin.items()), markup=False, highlight=False)
    started = time.perf_counter()
    with console.status("training the teacher"):
        console.print(
            f"teacher, on all training images: {teachers_accuracy():.2f} % of the test images", highlight=False
        )
    rows = []
    for seed in track(SEEDS, "training, alone and distilled", console=console, transient=True):
        alone, distilled = run(seed, "", "demo-alone"), run(seed, None, "demo-distilled")
        rows.append((alone.metrics["test"]["accuracy"] * 100, distilled.metrics["test"]["accuracy"] * 100))
    table = Table("seed", "alone", "distilled", "difference", box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for seed, (alone_accuracy, distilled_accuracy) in zip(SEEDS, rows, strict=True):
        table.add_row(
            str(seed),
            f"{alone_accuracy:.2f}",
            f"{distilled_accuracy:.2f}",
            f"{distilled_accuracy - alone_accuracy:+.2f}",
            end_section=seed == SEEDS[-1],
        )
    differences = [b - a for a, b in rows]
    mean, half = statistics.mean(differences), interval(differences)
    table.add_row(
        "mean",
        f"{statistics.mean(a for a, _ in rows):.2f}",
        f"{statistics.mean(b for _, b in rows):.2f}",
        f"{mean:+.2f} ± {half:.2f}",
        style="bold",
    )
    console.print("\nAccuracy on the test images, in percent:")
    console.print(table)
    verdict = "zero lies outside it" if abs(mean) > half else "zero lies inside it: no difference is shown"
    console.print(f"Mean difference with its 95% interval over {len(rows)} pairs; {verdict}.", highlight=False)
    console.print(f"{time.perf_counter() - started:.0f} s, {torch.get_num_threads()} thread", highlight=False)
    tensorboard = Path(sys.executable).parent / "tensorboard"
    shown = tensorboard.relative_to(Path.cwd()) if tensorboard.is_relative_to(Path.cwd()) else tensorboard
    console.print(f"\nSee both runs of seed 0:  {shown} --logdir runs", highlight=False, soft_wrap=True)
    console.print(f"Change the plugin list:   edit {os.path.relpath(RECIPE)}, or try", soft_wrap=True)
    command = Path(shown).parent / "stillhouse"
    console.print(
        f"  {command} train {os.path.relpath(RECIPE)} --plugins features,projector=linear --out runs/mine",
        highlight=False,
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StillhouseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
