"""Recipes of the bundled tiny models, a file each."""
