"""Teachers: who writes the texts over real images, each through its provider's own SDK."""
