"""The codes of the dataset: labels, reasons, kinds of marker and tip, verdicts, grades, sides, and what a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum


class Label(IntEnum):
    """Codes of the semantic label (uint8)."""

    BACKGROUND = 0
    SOMA = 1
    AXON = 2
    BASAL_DENDRITE = 3
    APICAL_DENDRITE = 4
    UNKNOWN = 255


class Reason(IntFlag):
    """Why a voxel is UNKNOWN: the bits of the parallel uint8 mask."""

    RIM = 1
    UNEXPLAINED = 2
    MARKER = 4
    BAD_PLANE = 8
    MISREGISTERED = 16
    SOMA_UNCERTAIN = 32
    NOT_DOWNLOADED = 64


FULL_AXON_UM = 280.0
"""Axon length that separates full from dendrite-only reconstructions, in all 509 mouse cells."""

NEURITE_LABELS = (Label.SOMA, Label.AXON, Label.BASAL_DENDRITE, Label.APICAL_DENDRITE)


type Rgb = tuple[int, int, int]

LABEL_COLOURS_RGB: dict[Label, tuple[int, int, int]] = {
    Label.BACKGROUND: (0, 0, 0),
    Label.SOMA: (230, 159, 0),
    Label.AXON: (0, 114, 178),
    Label.BASAL_DENDRITE: (213, 94, 0),
    Label.APICAL_DENDRITE: (204, 121, 167),
    Label.UNKNOWN: (128, 128, 128),
}
"""Okabe and Ito's palette: told apart by colour-blind readers too."""


def css(colour: Rgb) -> str:
    """A colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


class MarkerKind(IntEnum):
    """The `name` field of a marker file."""

    CUT_DENDRITE = 10
    UNTRACED_AXON = 20
    SOMA_SURFACE = 30


class TipKind(StrEnum):
    """Why a neurite ends where it does."""

    NATURAL = "natural"
    CUT = "cut"
    UNTRACED = "untraced"


class Verdict(StrEnum):
    """Whether a stretch of the skeleton lies on its stain."""

    ON = "ON"
    ALONGSIDE = "ALONGSIDE"
    NOT_ON = "NOT ON"
    UNCERTAIN = "UNCERTAIN"
    NO_DATA = "NO DATA"


VERDICT_COLOURS_RGB: dict[Verdict, Rgb] = {
    Verdict.ON: (42, 157, 92),
    Verdict.ALONGSIDE: (224, 165, 38),
    Verdict.NOT_ON: (230, 0, 0),
    Verdict.UNCERTAIN: (122, 111, 155),
    Verdict.NO_DATA: (181, 188, 196),
}


class Grade(StrEnum):
    """How much of a cell lies on its stain."""

    A = "A"
    B = "B"
    C = "C"
    REJECTED = "rejected"


class Split(StrEnum):
    """The side a cell is on."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    EXCLUDED = "excluded"


SIDES = (Split.TRAIN, Split.VAL, Split.TEST)
"""The sides of cells that are in the dataset."""


class Severity(StrEnum):
    """How bad a finding is; ERROR stops a release."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth knowing about the data: what, how bad, where, and what to do."""

    severity: Severity
    check: str
    message: str
    specimen_id: int | None = None
    remedy: str = ""


LABEL_NAMES = {Label.SOMA: "soma", Label.AXON: "axon", Label.BASAL_DENDRITE: "basal", Label.APICAL_DENDRITE: "apical"}
