"""Worker processes: one protocol for the benchmark, the comparison of engines and the search for settings.

Both directions of the protocol are lines, each a JSON object in ASCII. A worker reads messages from its standard input and
answers on its standard output, on which nothing else is printed. An answer with the key ``error``, an object of ``type`` and
``message``, reports a failure. Arrays are objects of ``dtype``, ``shape`` and ``base64`` (little-endian bytes in C order). The
input stays open as long as answers are wanted: a worker ends when it is closed.

``worker`` is the parent's side, ``serving`` the worker's; programs that cannot import this package (other interpreters, Node)
speak the protocol by themselves.
"""
