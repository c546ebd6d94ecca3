"""Units of a caption: the phrases, words or spans that get a map of their own."""
