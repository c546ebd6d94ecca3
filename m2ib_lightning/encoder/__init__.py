"""An encoder, cut in two: what differs between model families, and the part that runs in every step."""
