"""stillhouse-classics: published methods of distillation, one module and one entry point each.

A module's name is the method's usual abbreviation, and the entry point's: ``use = "rkd"`` is ``stillhouse_classics.rkd``.
In each stands the pure function first, which takes tensors and gives a scalar, and a thin plugin after it. What several
methods share stands in ``links`` (pairs of features), ``logits`` (outputs) and ``checks`` (options).
"""
