"""A run from its recipe to its folder.

Imports: teachers and below.
Public: alarms, clock, compilation, loggers, output_metrics, points, preparation, selection.
"""
