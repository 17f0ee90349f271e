"""Turn corpora into batches: splits, streams, records, token files; ``readers`` reads the files."""
