"""Compare what all engines and files of a model compute."""
