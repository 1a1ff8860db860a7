"""CLIP and SigLIP: how near an image and a text are, the baseline to compare with."""
