"""Rendered scenes with known truth: drawn, told, and told wrongly."""
