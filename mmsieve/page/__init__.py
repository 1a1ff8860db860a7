"""The page: one self-contained HTML file about tables, decisions, metrics and their samples."""
