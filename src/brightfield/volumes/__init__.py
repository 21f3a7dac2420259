"""The only Zarr code: volumes, shards, pyramids, byte ranges, the team remote."""
