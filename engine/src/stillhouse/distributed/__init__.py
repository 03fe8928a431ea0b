"""Several processes. Imports: the ground."""
