"""Loggers: what a run logs and measures, as CSV, to MLflow and to Weights & Biases."""

from __future__ import annotations

from stillhouse_loggers.csv_file import CsvFile
from stillhouse_loggers.mlflow_run import MlflowRun
from stillhouse_loggers.wandb_run import WandbRun

__all__ = ["CsvFile", "MlflowRun", "WandbRun"]
