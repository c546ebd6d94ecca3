"""Tables of pairs: CSV, TSV, JSONL, JSON, Parquet, image folders and hub data sets."""
