"""Compute on vector registers: elementwise formulas, conversions and copies."""
