"""The one-call interface: from a picture and a caption to an explanation."""
