"""The mix of training patches: what was asked for, and what came."""
