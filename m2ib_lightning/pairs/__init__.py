"""Pairs on their way to the model: read, checked, and made tensors."""
