"""Tables of pairs: CSV, TSV, JSONL, Parquet, image folders."""
