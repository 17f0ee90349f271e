"""Worker processes: one protocol for the benchmark, the comparison of engines and the search for settings.

Both directions of the protocol are lines, each a JSON object in ASCII. A worker reads messages from its standard input and
answers on its standard output, which carries nothing else. An answer with the key ``error``, an object of ``type`` and
``message``, reports a failure. Arrays are objects of ``dtype``, ``shape`` and ``base64`` (little-endian bytes in C order). A
worker ends when its input is closed, so the parent keeps it open as long as it waits for answers.

``worker`` is the parent's side, ``serving`` the worker's side. Programs that cannot import this package (other interpreters,
Node) implement the protocol themselves.
"""
