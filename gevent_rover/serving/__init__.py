"""The slot server."""
