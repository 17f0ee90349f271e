"""Turn text into ids and back: characters, words and byte pairs."""
