"""Reporting: one self-contained HTML page about tables, decisions, metrics and their samples."""
