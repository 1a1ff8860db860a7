"""The verbs, a file each: the same name here, on the command line and in Python."""
