"""Consoles, tables, live displays, error messages and exit codes of the command."""
