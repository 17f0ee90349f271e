"""Write and read files safely: checkpoints, JSON, locks, encodings of text and pictures."""
