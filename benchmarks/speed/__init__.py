"""What gevent_rover costs, measured side by side with others."""
