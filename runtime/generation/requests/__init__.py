"""Describe a text as it is requested, as it grows and as it is returned."""
