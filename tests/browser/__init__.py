"""Tests of the pages in a real browser: the distribution's Chromium, driven by playwright-core."""
