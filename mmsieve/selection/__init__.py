"""Selection: a subset of rated samples under a budget, rich in capabilities and styles."""
