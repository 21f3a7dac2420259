"""The Allen Cell Types Database."""
