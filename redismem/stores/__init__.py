"""One file for each kind of memory."""
