"""Training: recipes, data, objectives, and the stages that the stock Trainer runs."""
