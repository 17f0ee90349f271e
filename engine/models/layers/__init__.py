"""The layers around the recurrent ones: the NumPy reference, a forward and a backward function each.

The Numba kernels have the same names and signatures (``unrolled.engine.kernels.layers``).
"""
