"""How well gevent_rover spreads the load, measured and simulated, side by side with others."""
