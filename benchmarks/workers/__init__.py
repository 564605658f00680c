"""How well the pools of real gunicorn workers spread the load over a few servers."""
