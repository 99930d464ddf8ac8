"""The section `training`: how `tailrace train` fits a detector of sensors. Every default is what measured best.

In: plain data. Out: `Recipe`, frozen, which the bundle's manifest keeps. Remembers: nothing.
`python -m training.ablation` measures what each of them is worth; training/README.md has the table.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Encoder = Literal["none", "tcn", "fusion"]
PartName = Literal[
    "forecast",
    "distance",
    "distance_short",
    "residual",
    "reconstruction",
    "shape",
    "fusion_forecast",
    "fusion_masked",
]
Step = Literal["within", "across"]


class Losses(BaseModel):
    """Weights of the fusion network's losses; zero: it is not computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forecast: float = Field(default=1.0, ge=0, le=100)  # smooth L1 of the next frame
    masked: float = Field(default=1.0, ge=0, le=100)  # smooth L1 of hidden bins, and of sensors from all others
    bins: float = Field(default=1.0, ge=0, le=100)  # smooth L1 of the recent bins, from the code
    contrast: float = Field(default=0.1, ge=0, le=100)  # NT-Xent of two augmented views
    cpc: float = Field(default=0.1, ge=0, le=100)  # contrastive prediction of later bins' features


class Recipe(BaseModel):
    """What the score is made of, and how its networks are trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: Encoder = "tcn"  # whose code is part of a window's embedding
    parts: tuple[PartName, ...] | None = None  # of the score; None: the four that suit the number of sensors
    references: Literal["frozen", "online"] = "frozen"  # online: an entity's own past as well; for few entities
    smoothing: bool = True  # of each part, over a fraction of its patch
    steps: int | None = Field(default=None, ge=1, le=1_000_000)  # of each network; None: by the number of frames
    width: int = Field(default=32, ge=4, le=512, multiple_of=2)  # of the fusion network, shared by all rates
    encoder_width: int = Field(default=16, ge=4, le=512)  # of its encoders
    attention: tuple[Step, ...] = ("within", "across")  # where it attends: else the mean of what may be seen
    losses: Losses = Losses()

    @property
    def fusion(self) -> bool:
        """Whether the fusion network is needed."""
        return self.encoder == "fusion" or any(name.startswith("fusion_") for name in self.parts or ())

    @model_validator(mode="after")
    def _something_to_say(self) -> Recipe:
        if self.parts is not None and (not self.parts or len(set(self.parts)) < len(self.parts)):
            raise ValueError("parts: name at least one, and each once")
        if len(set(self.attention)) < len(self.attention):
            raise ValueError("attention: name each of within and across once, or none")
        losses = self.losses.model_dump()
        if self.fusion and not any(losses[name] for name in ("forecast", "masked", "bins")):
            raise ValueError("losses: one of forecast, masked and bins must weigh something")
        return self


DEFAULT = Recipe()
