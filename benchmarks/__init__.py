"""What gevent_rover costs, and how well it balances, measured side by side with others."""
