"""mmsieve cleans the image-text data that multimodal models learn from."""
