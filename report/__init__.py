"""Reports of training runs: one HTML page about several runs, and event files for TensorBoard."""
