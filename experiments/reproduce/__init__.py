"""The published comparison of methods, at a small size."""
