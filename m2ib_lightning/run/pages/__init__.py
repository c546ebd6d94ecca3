"""The page of a run, ``report.html``: its data, its files, and the thumbnails beside it."""
