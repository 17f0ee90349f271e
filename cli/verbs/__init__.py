"""Define the verbs of the command, one file each."""
