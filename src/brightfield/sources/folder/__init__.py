"""Your own stacks, in a folder or behind an fsspec URL."""
