"""What `score_speed` runs in turn: each loads once, then scores the shard per line read."""
