"""The slot pool: the connections that are kept, and those who lease them."""
