"""Pairs of image and caption: reading, checking and preparing them as tensors for the model."""
