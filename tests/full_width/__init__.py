"""Checkpoints of the real widths and vocabularies, few layers of them: `make test-full`."""
