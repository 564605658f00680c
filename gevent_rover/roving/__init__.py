"""The rover: its schedule, its attempts, and what becomes of them."""
