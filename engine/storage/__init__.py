"""Write and read files safely: checkpoints, JSON, locks and atomic replacement."""
