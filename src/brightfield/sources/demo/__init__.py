"""The embedded demo: neurons that are grown and rendered."""
