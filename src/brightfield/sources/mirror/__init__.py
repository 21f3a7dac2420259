"""A server that answers as the Allen service does."""
