"""What operators use: queries, the command line, the replay of recorded runs."""
