"""A 3D U-Net as the example that trains: `train`, `predict` and `evaluate` are the stages of `dvc.yaml`, in this order.

`settings` reads params.yaml, `network` is the model, `loss` what it learns from, `blocks` how a whole cell is predicted.
"""

import warnings

# DVCLive brings a package that PyTorch would rather have under another name.
warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)
