"""What many workers agree on: locks, fences, transactions."""
