"""Scan recurrent layers: a file of compiled formulas for each cell, and how threads share a layer."""
