"""All that touches the kernel: sockets, addresses, TLS, forks, and one attempt's dialling."""
