"""Verify an exported file against itself and its checkpoint."""
