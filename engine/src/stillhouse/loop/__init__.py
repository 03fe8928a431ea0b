"""A batch becomes an optimizer step, and everything hears of it. Part of the minimal engine.

Imports: registry and below; never data, tasks or models.
Public: phases.
"""
