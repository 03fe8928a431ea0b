"""Students of finished runs: evaluated, shown, exported.

Imports: training and below.
Public: card, evaluation, export, loader, prediction, quantization.
"""
