"""Stage 4: voxel labels."""
