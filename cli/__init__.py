"""The ``unrolled`` command: one file a verb, without logic of its own."""
