"""Choosing a subset of rated samples: what `select` does beyond reading words and printing."""
