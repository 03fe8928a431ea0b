"""Plugins and data sets that plans and their recipes name by import path: ``stillhouse_experiments.recipes.kernels:KernelSimilarity``."""
