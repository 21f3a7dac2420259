"""How good is a prediction? Voxels and traces scored against a finished dataset, as the field defines the scores.

`voxels`, `thinning`, `skeletons` and `runlength` are the metrics: pure functions of arrays and skeletons. `predictions` reads what is
scored, `truth` what it is scored against; `scoring` streams both through the metrics, and `tables` prints the result.
"""

from __future__ import annotations

from brightfield.evaluation.scoring import CellScore, Options, TraceScore, VoxelScore, evaluate

__all__ = ["CellScore", "Options", "TraceScore", "VoxelScore", "evaluate"]
