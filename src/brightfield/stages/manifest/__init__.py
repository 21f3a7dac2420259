"""Stage 6: nodes, patches, manifest, card, checks."""
