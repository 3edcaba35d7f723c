"""Links to the server. Nothing outside this package imports redis-py."""
