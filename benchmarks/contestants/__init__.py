"""What benchmarks run in turn: `score_speed` per line read, `select_speed` a process each time."""
