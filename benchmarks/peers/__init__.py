"""A pool side by side with what one would use instead of it: a few lines by hand, and HAProxy."""
