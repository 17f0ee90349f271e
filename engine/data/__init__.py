"""Turn files into batches: sources, readers, tables, corpora, splits and token files."""
