"""Stage 5: train, val, test."""
