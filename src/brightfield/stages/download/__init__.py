"""Stage 2: skeletons and pixels."""
