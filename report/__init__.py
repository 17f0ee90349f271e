"""Reports of trainings: one HTML page about several runs, and event files for TensorBoard."""
