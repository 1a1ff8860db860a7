"""The synthetic world: drawn scenes with known truth, their teacher, tiny models, the demo."""
