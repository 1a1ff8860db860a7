"""Engines map a shard job over shards: one report per shard, in any order, raising for none.

Every engine runs the same ShardWorker, so all of them write the same tables.
"""
