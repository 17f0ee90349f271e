"""Runs: an experiment from a corpus to a run folder, and its resumption."""
