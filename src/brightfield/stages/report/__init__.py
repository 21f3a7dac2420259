"""Stage 7: pages and numbers."""
