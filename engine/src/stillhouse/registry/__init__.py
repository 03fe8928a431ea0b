"""What is installed, in which order it runs, whose hook is whose. Part of the minimal engine.

Imports: contract and below; never data, tasks or models.
Public: none.
"""
