"""Self-distillation by exits: be your own teacher (Zhang et al., 1905.08094)."""

from torch import nn
from torch.nn import functional as F

from stillhouse import Plugin, Tap, Weight, hookimpl, plugin
from stillhouse.layout import channels


class Exit(nn.Module):
    """A bottleneck and a classifier at one stage: (B, C, H, W) -> features (B, D), logits (B, classes)."""

    def __init__(self, width, hidden, classes):
        super().__init__()
        pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.features = nn.Sequential(nn.Conv2d(width, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(), *pooled)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        x = self.features(x)
        return x, self.head(x)


@plugin
class Exits(Plugin):
    """Have exits at earlier stages learn from the labels and from the deepest stage.

    L = sum over exits of (1 - a) CE + a T^2 KL(deepest || exit) + hint ||f_exit - f_deepest||^2 (equations 1 to 4).
    """

    stages: tuple[str, ...] = ("stage1", "stage2")
    deepest: str = "stage3"
    temperature: float = 3.0
    share: float = 0.3
    hint: float = 0.03
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", stage) for stage in (*self.stages, self.deepest)]

    @hookimpl
    def build(self, assembly):
        seen, classes = assembly.features["student"], assembly.data.classes
        return nn.ModuleList(Exit(channels(seen[i]), channels(seen[self.deepest]), classes) for i in self.stages)

    @hookimpl
    def losses(self, step):
        t, seen = self.temperature, step.student.features
        answer, goal = (step.student.output.detach().float() / t).softmax(1), seen[self.deepest].detach().float()
        labels = soft = hints = 0.0
        for stage, leave in zip(self.stages, step.module(self), strict=True):
            features, logits = leave(seen[stage].float())
            labels += (1 - self.share) * F.cross_entropy(logits, step.targets)
            soft += self.share * t**2 * F.kl_div((logits / t).log_softmax(1), answer, reduction="batchmean")
            hints += self.hint * F.mse_loss(features, goal.mean((2, 3)))
        return {"labels": labels, "soft": soft, "hints": hints}
