"""Tasks: what the student is for. A task gives the loss, the metrics, the pictures, and the score checkpoints go by."""

from stillhouse.config.task import TaskSpec
from stillhouse.contract.task import Program, Task
from stillhouse.registry.tasks import build_task
from stillhouse.tasks.classification import Classification

__all__ = ["Classification", "Program", "Task", "TaskSpec", "build_task"]
