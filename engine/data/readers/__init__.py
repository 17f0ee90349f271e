"""Read text from files of many formats: names, compression, encodings, tables and JSON."""
