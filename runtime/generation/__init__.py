"""Generate texts: in batches, as a stream, by beam search."""
