"""Optimizers: settings, update rules by PyTorch's formulas, gradient scaling, and learning-rate schedules."""
