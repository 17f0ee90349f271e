"""Describe a model and compute it in NumPy: config, parameters, layers, cells and the step contract."""
