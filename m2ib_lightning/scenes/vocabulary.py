"""The words of the scenes: shapes, colours and sizes (content), and everything around them (filler)."""

SHAPES = ("circle", "square", "triangle", "star", "ring")
COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 220),
    "yellow": (235, 215, 50),
    "purple": (150, 50, 190),
    "white": (245, 245, 245),
}
COLOUR_NAMES = tuple(COLOURS)
SIZES = ("small", "large")
RADII = (8, 12)  # pixels, in the order of SIZES

PREFIXES = ("", "", "there is", "a photo of", "a picture of", "an image with", "we can see", "this shows")
CONNECTORS = ("and", "next to", "with", "near", "beside", "and also")
SUFFIXES = ("", "", "", "in the image", "on a noisy background", "here", "somewhere")
NOUNS = ("object", "shape")  # for a phrase that leaves the shape open
ARTICLES = ("a", "an", "the")
SPARE = ("some", "which", "that", "it", "of")  # not in our captions, but likely in a user's

CONTENT = frozenset(SHAPES) | frozenset(COLOUR_NAMES) | frozenset(SIZES)
FILLER = tuple(
    sorted(
        {word for text in PREFIXES + CONNECTORS + SUFFIXES for word in text.split()}
        | set(NOUNS)
        | set(ARTICLES)
        | set(SPARE)
    )
)
WORDS = SHAPES + COLOUR_NAMES + SIZES + FILLER
