"""Clients: connections to models behind OpenAI-compatible and Anthropic APIs."""
