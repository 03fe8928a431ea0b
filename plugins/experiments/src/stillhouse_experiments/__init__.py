"""stillhouse-experiments: the command ``stillhouse experiment``, which runs plans of many arms and writes their pages.

Imports nothing by itself, so that the command line stays quick; see :mod:`stillhouse_experiments.command`.
"""
