"""The networks: their published layouts, their tokenizers, their forward pass."""
