"""Measurements of all engines side by side: agreement and speed of one model, and pictures of trainings."""
