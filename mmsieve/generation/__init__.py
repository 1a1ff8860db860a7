"""Generation of training data: texts of known quality over images, written by a teacher."""
