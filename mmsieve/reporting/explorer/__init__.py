"""The explorer of a report: where a cut lies, what it drops, and what else is in the tables."""
