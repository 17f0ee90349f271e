"""Run an experiment from corpus to run folder, and resume it."""
