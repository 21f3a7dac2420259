"""Where cells and pixels come from."""
