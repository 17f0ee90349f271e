"""Compare exported files between runtimes."""
