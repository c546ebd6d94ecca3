"""Figures: pictures, maps and shaped text in one layout, written as pixels or as vectors."""
