"""One table, figure and page for many runs."""
