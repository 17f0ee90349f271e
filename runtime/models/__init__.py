"""Open a model file or a checkpoint on any engine."""
