"""Describe what every exported file contains: metadata, golden cases and stored weights."""
