"""Compare the logits, tokens and speed of all engines and files of a model."""
