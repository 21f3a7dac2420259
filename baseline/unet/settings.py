"""What `params.yaml` may say, typed and checked: a wrong key or value is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from brightfield.core.errors import ConfigError

FILE = Path("params.yaml")

type Triple = tuple[PositiveInt, PositiveInt, PositiveInt]
type Share = Annotated[float, Field(ge=0, le=1)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Network(_Group):
    """The shape of the U-Net, finest level first.

    channels: of each level. kernel_zyx: of the convolutions of each level; 1 along z where planes are far apart. pool_zyx: from each level
    to the next. surroundings_px: width, within the plane, of the square whose mean absorbance is taken off; odd.
    """

    channels: tuple[PositiveInt, ...] = (8, 16, 32)
    kernel_zyx: tuple[Triple, ...] = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
    pool_zyx: tuple[Triple, ...] = ((1, 2, 2), (2, 2, 2))
    surroundings_px: PositiveInt = 17

    @model_validator(mode="after")
    def _fits(self) -> Network:
        n = len(self.channels)
        if len(self.kernel_zyx) != n or len(self.pool_zyx) != n - 1:
            raise ValueError(f"{n} levels need {n} of kernel_zyx and {n - 1} of pool_zyx")
        if any(side % 2 == 0 for kernel in self.kernel_zyx for side in kernel) or self.surroundings_px % 2 == 0:
            raise ValueError("kernel_zyx and surroundings_px are odd, so that there is a middle")
        return self


class Train(_Group):
    """How it is trained.

    size_zyx: voxels of a patch; a multiple of what all levels pool. foreground: weight of a voxel of the neuron in the cross-entropy.
    dice, topology: weights of the two other terms, see `loss`. average: share that the kept weights keep of themselves at each step.
    threads: of the CPU; the result depends on it.
    """

    seed: int = 0
    steps: PositiveInt = 900
    batch: PositiveInt = 2
    size_zyx: Triple = (16, 96, 96)
    draw: Literal["each", "weight", "class"] = "class"
    augment: bool = True
    learning_rate: PositiveFloat = 0.004
    weight_decay: float = 0.0001
    foreground: PositiveFloat = 4.0
    dice: float = 1.0
    topology: float = 1.0
    average: Share = 0.98
    threads: PositiveInt = 2


class Predict(_Group):
    """How whole cells are predicted.

    sides: of the split. block_zyx: voxels that are predicted at once, without what is read around them.
    threshold_side: the side on whose labels the threshold is chosen.
    """

    sides: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    threshold_side: Literal["train", "val"] = "val"
    block_zyx: Triple = (96, 192, 192)

    @model_validator(mode="after")
    def _has_side(self) -> Predict:
        if self.threshold_side not in self.sides:
            raise ValueError(f"sides must hold threshold_side, {self.threshold_side}")
        return self


class Settings(_Group):
    """All of `params.yaml`. device: auto takes a GPU where there is one."""

    data: str = ".."
    device: Literal["auto", "cpu", "cuda"] = "auto"
    network: Network = Network()
    train: Train = Train()
    predict: Predict = Predict()

    def changed(self, **groups: Any) -> Settings:
        """Other settings: a value, or for a group a dict of what is other in it. Raises ConfigError as `read_settings` does."""
        said = self.model_dump()
        return _checked(
            {**said, **{name: {**said[name], **new} if isinstance(new, dict) else new for name, new in groups.items()}}, "settings"
        )

    @model_validator(mode="after")
    def _patches_pool(self) -> Settings:
        whole = stride_of(self.network)
        if any(side % step for side, step in zip(self.train.size_zyx, whole, strict=True)):
            raise ValueError(f"train.size_zyx {self.train.size_zyx} is not a multiple of {whole}, what the levels pool")
        return self


def stride_of(network: Network) -> tuple[int, int, int]:
    """Voxels (z, y, x) that become one on the coarsest level."""
    z = y = x = 1
    for pool in network.pool_zyx:
        z, y, x = z * pool[0], y * pool[1], x * pool[2]
    return (z, y, x)


def read_settings(path: Path | str = FILE) -> Settings:
    """The settings of a file; what it does not say is the default. Raises ConfigError for a wrong key or value, with its place."""
    try:
        said: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return _checked(said or {}, str(path))


def _checked(said: Any, where: str) -> Settings:
    try:
        return Settings.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise ConfigError(f"{where}: {place}: {first['msg']}, found {first['input']!r}") from error
