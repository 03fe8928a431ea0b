"""The checks of the conformance kit: a function each, which yields what is wrong and what was refused in words.

Imports: the rest of testing, students, training and below.
Public: none.
"""
