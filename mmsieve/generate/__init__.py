"""Training data: texts of known quality over images, and the teachers that write them."""
