"""Versions of the dataset: what differs between two, a release, a part pulled from the team remote."""
