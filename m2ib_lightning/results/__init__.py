"""The result for a pair, and what is made of it: rows, pictures, pages, regions."""
