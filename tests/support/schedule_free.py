"""Schedule-free SGD (Defazio et al., 2024, algorithm 1): gradients at y, steps of z, and x, their average, to be measured."""

from __future__ import annotations

from typing import Any

import torch


class ScheduleFreeSGD(torch.optim.Optimizer):
    """In train mode the parameters are y = (1 - beta) z + beta x, in eval mode x."""

    def __init__(self, params: Any, lr: float = 1e-2, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "train_mode": False, "k": 0})

    @torch.no_grad()
    def _switch(self, train: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] is train:
                continue
            weight = 1 - group["beta"] if train else 1 - 1 / group["beta"]
            for p in group["params"]:
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], weight)
            group["train_mode"] = train

    def train(self) -> None:
        """To y."""
        self._switch(True)

    def eval(self) -> None:
        """To x."""
        self._switch(False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step of z, and of the average."""
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("not in train mode")
            beta, share = group["beta"], 1 / (group["k"] + 1)
            for p in group["params"]:
                if p.grad is None:
                    continue
                z = self.state[p].setdefault("z", p.clone())
                x = (p - (1 - beta) * z) / beta
                z.sub_(p.grad, alpha=group["lr"])
                x.lerp_(z, share)
                p.copy_((1 - beta) * z + beta * x)
            group["k"] += 1
