"""Damaged files of every kind that is ours: each run on one ends in order, or names what is wrong.

`python -m tests.fuzz` makes mutations of each kind from seeds, runs the verb that reads the file in
a fork, and tells what ended otherwise; `--repeat KIND NUMBER` runs one mutation again and shows it.
"""
