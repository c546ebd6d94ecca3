"""Encoders cut in two: the towers, the suffix that runs in every step, and the model families."""
