"""Annotated pictures: files that say what a picture shows, and where."""
