"""Generate text in one compiled loop, sampling included."""
