"""What it costs to be seen: instruments of a pool, and polls of its status."""
