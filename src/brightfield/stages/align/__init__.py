"""Stage 3: whether skeletons are on their stain."""
