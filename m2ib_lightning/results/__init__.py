"""The result for a pair and its forms: table rows, pictures, HTML pages, regions."""
