"""Training: the loop, its events and observers, evaluation, and averaging of weights."""
