"""A run from its recipe to its folder.

Imports: teachers and below.
Public: compilation, preparation, selection.
"""
