"""Training data for neuron reconstruction, versioned and proven."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brightfield.dataset import CellData, manifest, open_cell

__version__ = "0.1.0"
__all__ = ["CellData", "manifest", "open_cell"]


def __getattr__(name: str) -> Any:
    """The reading surface, imported when it is first used, so that ``import brightfield`` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'brightfield' has no attribute {name!r}; it has {', '.join(__all__)}")
    from brightfield import dataset

    return getattr(dataset, name)
