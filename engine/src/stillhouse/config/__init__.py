"""The recipe as typed data, and how plain tables become it.

Imports: the ground (errors, layout, schedule, ...).
Public: data, model, overrides, recipe, run, run_options, structure, task, teacher.
"""
