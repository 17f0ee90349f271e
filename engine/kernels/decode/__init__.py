"""Generate text in compiled loops, sampling included."""
