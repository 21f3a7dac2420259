"""What a source of cells is: the questions it answers with cells (`core/cell.py`), files and pixels.

Two sources exist: `allen/` (the Allen service or a mirror of it) and `folder/` (your own stacks). Nothing else is known of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from brightfield.core.cell import Cell, Crop

if TYPE_CHECKING:
    from brightfield.sources.http.client import Traffic


class Source(Protocol):
    """Where cells, files and pixels come from. Calls raise SourceError, TransferError or StackError; they never return a guess."""

    @property
    def base_url(self) -> str:
        """Where it is, without credentials: goes into the manifest."""
        ...

    def cells(self) -> Sequence[Cell]:
        """Every cell the source knows, ordered by specimen id, selected or not; what is costly to ask may still be absent."""
        ...

    def complete(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """The same cells in the same order, with reconstruction, files and stack as far as the source has them."""
        ...

    def file(self, url: str) -> bytes:
        """The bytes of an SWC or marker file."""
        ...

    def pixels(self, cell: Cell, crop: Crop) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The decoded pixels of a crop, shape `crop.shape_yx`, verified."""
        ...

    def projection(self, cell: Cell, level: int) -> NDArray[np.uint8] | None:
        """The minimum projection along z at `level`, or None where the source has none."""
        ...

    @property
    def traffic(self) -> Traffic | None:
        """What was asked and received so far; None where nothing counts it."""
        ...

    def close(self) -> None:
        """Let go of connections: what is under way fails soon, and nothing can be asked any more."""
        ...


@contextmanager
def interruptible(source: Source) -> Iterator[None]:
    """Within this, Ctrl-C closes `source`, so that threads that wait for it need not be waited for."""
    try:
        yield
    except KeyboardInterrupt:
        source.close()
        raise
