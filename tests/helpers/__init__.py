"""What several tests share: files to read, checkpoints, servers, oracles."""
