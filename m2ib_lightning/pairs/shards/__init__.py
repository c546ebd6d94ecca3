"""Streams of pairs, read forwards: tar shards, Parquet shards, and data sets that ``datasets`` streams."""
