"""Connections to other packages. Each module says which extra installs what it needs."""
