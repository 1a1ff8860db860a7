"""Shards -> samples: one reader per layout, chosen from the content."""
