"""Exporting: kept samples found in their sources, and tars written from them."""
