"""Train: the loop, its events, evaluation and averaging of weights."""
