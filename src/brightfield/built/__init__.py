"""The dataset as the stages before have built it."""
