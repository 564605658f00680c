"""The front and the relay side by side with HAProxy and socat."""
