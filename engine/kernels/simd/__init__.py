"""Vector code: registers and memory in IR, elementwise formulas, conversions and copies."""
