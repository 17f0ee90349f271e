"""Measure and describe the machine: peak, bandwidths, processor and versions."""
