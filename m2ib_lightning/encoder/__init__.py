"""Encoders cut in two: the towers, the suffix that runs in every optimiser step, and the model families."""
