"""Verbs of ``unrolled bench``."""
