"""Fusion: the network that reads all sensors of a scene together, each at its own rate, and says what they should show.

In: frames. Out per frame: a forecast of the next, each sensor's recent bins as the others tell them, a code.
Remembers: nothing. Made by `training.fit_fusion`; written as arrays by `models.sensors_bundle`.

    frames of a rate -> its encoder -> [bin, width] and a vector -> projection to the shared width
        within: a sensor's bins and its vector look at its own bins      -> tokens [sensor, bin], state [sensor]
        across: each state looks at all tokens                           -> forecast; mean over sensors -> code
                each sensor's name looks at the tokens of all *others*   -> its own recent bins: masked reconstruction
        code -> recent bins of all sensors                               -> bin means

A sensor's own tokens are hidden from the query that reconstructs it, so one pass reconstructs every sensor. Bins in
which a sensor is absent are seen by nobody. Either step may take plain means instead of attending.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.attention import STEPS, Attention, Mean
from models.conv_encoder import ConvEncoder
from models.rates import BINS, ENCODERS, Rate
from models.scenes import F32, I64
from models.sights import Fused
from models.tcn_encoder import TcnEncoder

CODE, HIDDEN = 16, 64
SCORES_MAX = 1 << 22  # of attention at one time: bounds the memory of a pass, whatever the number of sensors


@dataclass(frozen=True)
class FusionShape:
    """What the arrays' shapes follow from."""

    sensors: int
    spacing: int  # frames in a bin of the targets
    width: int  # shared
    encoder_width: int
    rates: tuple[Rate, ...]
    attention: tuple[str, ...] = STEPS  # the steps that attend; the others take the mean of what may be seen

    @property
    def reach(self) -> int:
        """Frames looked back on, the frame itself and the targets' oldest included."""
        return max(BINS * self.spacing, *(rate.reach for rate in self.rates))

    @property
    def tokens(self) -> int:
        return sum(len(rate.sensors) * rate.bins for rate in self.rates)

    @property
    def frames_max(self) -> int:
        """Frames in one pass."""
        return int(np.clip(SCORES_MAX // (self.sensors * self.tokens), 1, 512))


@dataclass(frozen=True)
class Outputs:
    """Of n frames each of b stretches."""

    forecast: Tensor  # [b, n, c] of the frame after
    masked: Tensor  # [b, n, c, BINS] means of the sensor's recent bins, oldest first, from the other sensors
    code: Tensor  # [b, n, CODE]
    bins: Tensor  # [b, n, c, BINS] the same means, from the code


class Fusion(nn.Module):
    """See the module. All sensors in the order of the detector."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.shape, width, c = shape, shape.width, shape.sensors
        kinds = {"tcn": TcnEncoder, "conv": ConvEncoder}
        self.encoders = nn.ModuleList(kinds[ENCODERS[rate.name]](rate, shape.encoder_width) for rate in shape.rates)
        self.projections = nn.ModuleList(nn.Linear(shape.encoder_width, width) for _ in shape.rates)
        self.ages = nn.ParameterList(nn.Parameter(0.1 * torch.randn(rate.bins, width)) for rate in shape.rates)
        self.names = nn.Parameter(0.1 * torch.randn(c, width))
        self.within, self.across = (Attention(width) if step in shape.attention else Mean(width) for step in STEPS)
        self.forecast = nn.Parameter(torch.randn(c, width) / width)
        self.masked = nn.Parameter(torch.randn(c, width, BINS) / width)
        self.offset = nn.Parameter(torch.zeros(c, 1 + BINS))
        self.code, self.hidden = nn.Linear(width, CODE), nn.Linear(CODE, HIDDEN)
        self.bins = nn.Linear(HIDDEN, c * BINS)
        owner = [sensor for rate in shape.rates for sensor in rate.sensors for _ in range(rate.bins)]
        self.owner = torch.tensor(owner)  # of each token; no parameter

    def encode(self, x: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
        """Per rate, features [b, n, k, bins, w] and vectors [b, n, k, w] of the last n of frames [b, t, c, 4]."""
        every = zip(self.shape.rates, self.encoders, strict=True)
        return [encoder(x[:, :, list(rate.sensors)], n) for rate, encoder in every]

    def fuse(self, x: Tensor, encoded: list[tuple[Tensor, Tensor]]) -> Outputs:
        """From what `encode` gave for the same frames."""
        b, n = encoded[0][1].shape[:2]
        tokens, states, seen = self._within(x, encoded)
        others = self.owner.to(x.device)[None] != torch.arange(self.shape.sensors, device=x.device)[:, None]  # [c, l]
        fused = self.across(states, tokens, seen[:, None])  # [b * n, c, width]
        told = self.across(self.names.expand(b * n, -1, -1), tokens, seen[:, None] & others)
        present = x[:, -n:, :, -1:].reshape(b * n, -1, 1)  # [b * n, c, 1]
        pooled = (fused * present).sum(1) / present.sum(1).clamp(min=1)  # [b * n, width]
        code = torch.tanh(self.code(pooled))
        forecast = torch.einsum("ncw,cw->nc", fused, self.forecast) + self.offset[:, 0]
        masked = torch.einsum("ncw,cwi->nci", told, self.masked) + self.offset[:, 1:]
        bins = self.bins(torch.relu(self.hidden(code))).reshape(b, n, -1, BINS)
        return Outputs(
            forecast.reshape(b, n, -1), masked.reshape(b, n, -1, BINS), code.reshape(b, n, CODE), bins
        )  # fmt: skip

    def _within(self, x: Tensor, encoded: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [b * n, l, width], states [b * n, c, width], and which tokens may be seen [b * n, l]."""
        tokens, states, seen, t = [], [], [], x.shape[1]
        for i, (rate, (features, vector)) in enumerate(zip(self.shape.rates, encoded, strict=True)):
            b, n, k, size, _ = features.shape
            sensors = list(rate.sensors)
            here = torch.stack([x[:, t - n - back : t - back, sensors, -1] > 0.5 for back in rate.back], -1)
            name = self.names[sensors].repeat(b * n, 1)[:, None]  # [b * n * k, 1, width]
            own = self.projections[i](features).reshape(b * n * k, size, -1) + self.ages[i] + name
            state = self.projections[i](vector).reshape(b * n * k, 1, -1) + name
            visible = here.reshape(b * n * k, 1, size)
            looked = self.within(torch.cat([own, state], 1), own, visible)  # [b * n * k, size + 1, width]
            tokens.append(looked[:, :-1].reshape(b * n, k * size, -1))
            states.append(looked[:, -1].reshape(b * n, k, -1))
            seen.append(visible.reshape(b * n, k * size))
        order = torch.argsort(torch.tensor([s for rate in self.shape.rates for s in rate.sensors], device=x.device))
        return torch.cat(tokens, 1), torch.cat(states, 1)[:, order], torch.cat(seen, 1)

    def forward(self, x: Tensor, n: int) -> Outputs:
        """Of frames [b, t, c, CHANNELS], t >= shape.reach - 1 + n, what is said at the last n."""
        return self.fuse(x, self.encode(x, n))


def run(net: Fusion, x: F32, runs: tuple[I64, I64] | None = None) -> Fused:
    """The network over frames [f, c, CHANNELS], as if they were one run: the caller knows which have their context.

    runs: first rows and ends of those that are wanted, whose context lies before them; None: every frame's.
    """
    shape, (f, c, _) = net.shape, x.shape
    first, end = runs or (np.array([shape.reach]), np.array([f]))
    forecast = np.zeros((f + 1, c), np.float32)  # what is said of the frame after the last is of no use
    out = Fused(forecast[:f], np.zeros((f, c, BINS), np.float32), np.zeros((f, CODE), np.float32))
    wanted = np.flatnonzero(end > first)
    n = end[wanted] - first[wanted] + 1  # the frame before the first forecasts it
    pieces = -(-n // shape.frames_max)
    within = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = np.repeat(first[wanted] - 1, pieces) + within * shape.frames_max
    length = np.minimum(np.repeat(end[wanted], pieces) - start, shape.frames_max)
    with torch.inference_mode():
        for size in np.unique(length):  # in a stream nearly all runs are of one length
            alike, at_once = start[length == size], max(1, shape.frames_max // int(size))
            for i in range(0, len(alike), at_once):
                rows = alike[i : i + at_once, None] + np.arange(int(size))  # [runs, size]
                near = alike[i : i + at_once, None] + np.arange(1 - shape.reach, int(size))
                said = net(torch.from_numpy(x[near]), int(size))
                forecast[rows + 1], out.masked[rows], out.code[rows] = (
                    said.forecast.numpy(), said.masked.numpy(), said.code.numpy(),
                )  # fmt: skip
    return out


def weights(net: Fusion) -> dict[str, F32]:
    """The parameters by name."""
    return {name: value.detach().cpu().numpy() for name, value in net.state_dict().items()}


def network(shape: FusionShape, arrays: dict[str, F32]) -> Fusion:
    """The network of such weights, frozen. Raises RuntimeError where they do not fit."""
    net = Fusion(shape)
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
    return net.eval().requires_grad_(False)


def shapes(shape: FusionShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights."""
    # Not on the device "meta", which would do without memory: it loads torch's compiler first, for many seconds.
    return {name: tuple(value.shape) for name, value in Fusion(shape).state_dict().items()}
