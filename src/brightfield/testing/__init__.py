"""Makers and Hypothesis strategies that the tests use, for tests of your own: skeletons, grids, a source in miniature, a small dataset."""
