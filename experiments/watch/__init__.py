"""A page about running experiments that refreshes itself."""
