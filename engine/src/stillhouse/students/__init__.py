"""Students of finished runs: evaluated, shown, exported.

Imports: training and below.
Public: evaluation, export, loader, prediction.
"""
