"""The command line, and the only place that monkey-patches."""
