"""MLM-Filter (arXiv 2403.02677): four scores of a caption, by a model on a server."""
