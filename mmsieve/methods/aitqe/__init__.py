"""AITQE (arXiv 2410.16166): six scores for a caption, and a rewrite where it is poor."""
