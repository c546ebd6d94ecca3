"""The method: the bottleneck, its objective, and the loop that optimises it."""
