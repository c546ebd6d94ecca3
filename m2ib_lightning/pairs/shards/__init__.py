"""Shards of pairs, read forwards: tar and Parquet files."""
