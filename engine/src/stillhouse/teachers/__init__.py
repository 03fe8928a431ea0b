"""Where a teacher comes from, and what it said before.

Imports: loop, tasks, models, data and below.
Public: cache, sources, store.
"""
