"""Run the network from scratch on either backend, NumPy or Numba."""
