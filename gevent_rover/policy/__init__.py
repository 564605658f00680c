"""Decisions: no gevent, no socket, no clock. Time comes in as an argument."""
