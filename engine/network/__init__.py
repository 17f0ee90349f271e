"""The network from scratch, on a backend of NumPy or Numba functions."""
