"""Describe a text as it is requested, while it is written, and as it is returned."""
