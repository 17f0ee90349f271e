"""Share work between threads: the thread pool, barriers and memory for results."""
