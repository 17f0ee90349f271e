"""Update parameters: the optimizers of PyTorch, clipping and learning-rate schedules."""
