"""Tasks: what a teacher may be asked to write, a module each."""
