"""From an ordered list of plugins to a composition that is ready to train: the walk before anything is trained.

Students are adapted, layers tapped, plugins built and transformed over two samples, what cannot work is named; and what a
run leaves behind is folded away again.

Imports: loop, registry, contract and what stands below them; never data, tasks or models.
Public: none.
"""
