"""Arguments and options of the verbs, and checks of their values."""
