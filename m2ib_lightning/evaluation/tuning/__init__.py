"""The choice of M2IB's settings for a model: candidates, trials on pairs, and the comparison with the presets."""
