"""Stage 1: which cells there are, and which are taken."""
