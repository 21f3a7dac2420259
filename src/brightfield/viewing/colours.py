"""Colours and shaders: what a viewer draws the codes of the dataset with."""

from __future__ import annotations

from brightfield.core.codes import LABEL_COLOURS_RGB, Label, Reason, Rgb, css

UNKNOWN_ALPHA = 0.2
"""How much of an unknown voxel covers the stain."""
LABEL_ALPHA = 0.5

REASON_COLOURS_RGB: dict[Reason, Rgb] = {
    Reason.RIM: (86, 180, 233),
    Reason.UNEXPLAINED: (230, 0, 0),
    Reason.MARKER: (240, 228, 66),
    Reason.BAD_PLANE: (120, 60, 160),
    Reason.MISREGISTERED: (213, 94, 0),
    Reason.SOMA_UNCERTAIN: (0, 158, 115),
    Reason.NOT_DOWNLOADED: (128, 128, 128),
}

MARK_COLOURS: dict[int, str] = {0: "#ffffff", 10: "#00e5ff", 20: "#f0e442", 30: "#ff66ff"}
PLACE_COLOUR = "#ffff00"

IMAGE_SHADER = """#uicontrol invlerp normalized
void main() {
  if (toRaw(getDataValue()) == 0u) {
    emitRGB(vec3(0.79, 0.82, 0.86));  // not downloaded: as around the stack
    return;
  }
  emitGrayscale(normalized());
}
"""

PAPER = "#c9d1db"
"""What shows around the stack, and where nothing was downloaded."""

DISTANCE_SHADER = """// 0 inside, 127 the surface, 254 outside, 255 unknown
void main() {
  uint code = toRaw(getDataValue());
  float depth = 1.0 - float(code) / 127.0;
  if (code == 255u) emitRGBA(vec4(0.5, 0.5, 0.5, 0.4));
  else if (depth > 0.0) emitRGBA(vec4(0.84, 0.37, 0.0, 0.4 + 0.6 * depth));
  else emitRGBA(vec4(0.0, 0.45, 0.7, 0.6 * (1.0 + depth)));
}
"""

INTENSITY_SHADER = """#uicontrol vec3 colour color(default="#00c853")
#uicontrol invlerp normalized
void main() {
  emitRGBA(vec4(colour, normalized()));
}
"""

MARK_SHADER = """void main() {
  setColor(prop_colour());
  setPointMarkerSize(9.0);
}
"""


def label_colours() -> dict[int, str]:
    """The classes' own colours, and grey for unknown."""
    return {int(label): css(colour) for label, colour in LABEL_COLOURS_RGB.items() if label is not Label.BACKGROUND}


def reason_shader() -> str:
    """A check box per reason; where several hold, the mean of their colours."""
    names = {bit: str(bit.name).lower() for bit in REASON_COLOURS_RGB}
    controls = [f"#uicontrol bool {n} checkbox(default={'false' if b is Reason.NOT_DOWNLOADED else 'true'})" for b, n in names.items()]
    tests = [
        f"  if ({names[bit]} && (bits & {int(bit)}u) != 0u) sum += vec4({_fractions(rgb)}, 1.0);" for bit, rgb in REASON_COLOURS_RGB.items()
    ]
    head = ["void main() {", "  uint bits = toRaw(getDataValue());", "  vec4 sum = vec4(0.0);"]
    return "\n".join([*controls, *head, *tests, "  if (sum.a == 0.0) emitTransparent();", "  else emitRGB(sum.rgb / sum.a);", "}", ""])


def _fractions(colour: Rgb) -> str:
    return ", ".join(f"{part / 255:.3f}" for part in colour)
