"""A run: its directory, its table, its ranks, and what Lightning does with pairs."""
