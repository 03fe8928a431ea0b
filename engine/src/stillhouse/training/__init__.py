"""A run from its recipe to its folder.

Imports: teachers and below.
Public: alarms, clock, compilation, output_metrics, preparation, selection.
"""
