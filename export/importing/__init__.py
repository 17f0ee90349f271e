"""Import weights that were trained elsewhere."""
