"""Arguments and options that several verbs share, and the checks of what was typed."""
