"""UniFilter (arXiv 2510.15162): one quality score for captions and interleaved documents."""
