"""Draw figures; matplotlib is imported only when one is drawn."""
