"""Engines map a shard job over shards; all run the same ShardWorker and write the same tables."""
