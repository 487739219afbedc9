"""The interactive report of `jaxsel.explore`: which data it shows, its charts and its page."""
