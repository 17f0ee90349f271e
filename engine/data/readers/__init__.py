"""Read text from files: names, compression, encodings, tables and JSON."""
