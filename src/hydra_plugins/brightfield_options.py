"""Found by Hydra's plugin scan, `dvc exp run -S` included: makes the typed options and their rules known before anything is composed."""

from __future__ import annotations

from brightfield.config.compose import register

register()
