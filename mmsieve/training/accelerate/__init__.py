"""Configs for `accelerate launch`, each of which spreads a training over GPUs in another way."""
