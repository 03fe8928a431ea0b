"""Several processes: who is who, what they exchange, how parameters are spread.

Imports: the ground.
Public: processes, signals.
"""
