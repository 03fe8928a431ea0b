"""Tasks of a student: each gives the loss, the metrics, the pictures, and the score of the best checkpoint.

Imports: data and below.
Public: this package, builder, classification, depth, detection, distillation, images, measures, multilabel, own_pixels, pictures,
regression, segmentation, self_supervision.
"""

from stillhouse.config.task import TaskSpec
from stillhouse.contract.task import Program, Task
from stillhouse.tasks.builder import build_task
from stillhouse.tasks.classification import Classification

__all__ = ["Classification", "Program", "Task", "TaskSpec", "build_task"]
