"""Recurrent sequence models from scratch: a NumPy reference to read, Numba kernels with the same results.

Letters used everywhere: T time, B batch, E embedding, H hidden, V vocabulary, L layers, G gates, S states.
Arrays are time-major, (T, B, ·).
"""
