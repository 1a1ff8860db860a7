"""What `export` is made of: kept samples found in their sources, and tars written from them."""
