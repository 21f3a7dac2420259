"""What everything stands on: errors, tables and their contracts, coordinates, skeletons, cells, files."""
