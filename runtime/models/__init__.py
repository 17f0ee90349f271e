"""Models from files and checkpoints, on every engine."""
