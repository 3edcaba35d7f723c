"""Reads served from this process' memory, and how they stay true."""
