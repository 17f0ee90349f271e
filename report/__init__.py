"""What trainings leave behind, for people: one page about several runs, and event files for TensorBoard."""
