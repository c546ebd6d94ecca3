"""From a picture and a caption to an explanation, in one call."""
