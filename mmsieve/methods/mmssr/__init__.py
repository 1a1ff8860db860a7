"""mmSSR (arXiv 2503.13383): 14 capability ratings and styles of instruction samples."""
