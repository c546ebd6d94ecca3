"""Runs: the run directory and its table, resume and merge, the ranks, and the Lightning modules and callbacks."""
