"""Patches per CPU-second of cellmap-data, for `loader.py --cellmap PYTHON`: run by an interpreter that has it (it needs zarr < 3).

Arguments: a folder with ``raw`` and ``labels/neuron`` (Zarr v2, OME-NGFF 0.4, one cell), and a JSON list of patch centres (z, y, x) in um,
with shape and voxel size. Prints a line per repeat: patches per CPU-second, and the sums of the last image and labels, to see that it
read them.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    """Measure."""
    import torch
    from cellmap_data import CellMapDataset

    torch.set_num_threads(1)
    folder, job = sys.argv[1], json.loads(sys.argv[2])
    spec = {"shape": job["shape"], "scale": job["scale"]}
    path = f"{folder}/labels/[neuron]"
    data = CellMapDataset(f"{folder}/raw", path, ["neuron"], {"raw": spec}, {"labels": spec}, force_has_data=True)
    centres = [dict(zip("zyx", centre, strict=True)) for centre in job["centres"]]
    for _ in range(job["repeats"] + 1):
        start = time.process_time()
        for centre in centres:
            data._idx_to_center = lambda _, centre=centre: centre  # noqa: SLF001 - the same boxes as the others read
            sample = data[0]
        seconds = time.process_time() - start
        print(len(centres) / seconds, float(sample["raw"].sum()), float(sample["labels"].sum()))


if __name__ == "__main__":
    main()
