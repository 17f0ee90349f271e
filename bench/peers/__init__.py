"""The peers of the benchmark: their registry, what each does for a workload, and the process it does it in."""
