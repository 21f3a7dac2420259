"""Learning from a finished dataset: patches in an order that can be repeated, targets from the graph, augmentation in micrometres.

rows -> order -> cells -> (augment, warp, intensity) -> targets -> patches. Plain numpy; `brightfield.torch` puts tensors around it.
"""
