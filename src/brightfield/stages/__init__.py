"""The pipeline: one package per stage of `dvc.yaml`, in its order."""
