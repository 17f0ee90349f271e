"""Benchmarks of all engines side by side: speed, memory and agreement, and pictures of training runs."""
