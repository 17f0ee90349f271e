"""Recurrent layers: one scan over time for every cell, and a file of formulas for each cell."""
