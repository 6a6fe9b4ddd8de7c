"""Several runs side by side: a grid of settings, its runs, the verdict between values, the page."""
