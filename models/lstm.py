"""The token network: an LSTM that predicts the next token, and how surprised it is by the one that came.

In: stretches of tokens. Out: per target its surprise and the entropy of the prediction; per stretch the mean and the
last hidden state. Remembers: nothing. Every stretch starts from the zero state with up to
`WARM_UP` tokens of its context before the first target, so that a session's windows can be scored side by side;
carrying the state on measured no better, and would be most of what an entity keeps.

    tokens [b, t] -> embedding [b, t, e] -> one LSTM layer -> hidden [b, t, h] -> linear -> logits [b, t, classes]

The most frequent tokens are classes of their own; all rarer ones share the last class, within which a token has its
training frequency. So the cost of a token does not grow with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.scenes import F32, I32, I64, Bool
from models.stretches import BOS, UNK, Stretches
from models.threads import each

N_CLASSES_MAX = 1024  # several times what any set of system calls or log templates measured has
WARM_UP = 8  # tokens of context before the first target; 16 or 32 rank no better, and cost a quarter more
UNIFORM = 1e-3  # share of the uniform distribution in a prediction: bounds the surprise of one token by ln(V / .001)
BATCH_STEPS = 16_384  # steps of all lanes; larger batches leave the processor's cache
HEAD_LOGITS = 1 << 18  # logits at one time, for the same reason


@dataclass(frozen=True)
class NetSettings:
    n_classes: int
    embedding: int = 64
    hidden: int = 64
    dropout: float = 0.05  # training only: of the inputs and the outputs of the LSTM


class TokenLstm(nn.Module):
    """Next-token prediction, as DeepLog (Du et al. 2017), but judged by surprise and not by rank."""

    def __init__(self, settings: NetSettings) -> None:
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(settings.n_classes, settings.embedding)
        self.lstm = nn.LSTM(settings.embedding, settings.hidden, batch_first=True)
        self.head = nn.Linear(settings.hidden, settings.n_classes)
        self.dropout = nn.Dropout(settings.dropout)
        # Gates in torch's order: input, forget, cell, output. The forget gate starts open, so that gradients pass.
        with torch.no_grad():
            self.lstm.get_parameter("bias_ih_l0")[settings.hidden : 2 * settings.hidden] += 1.0

    def hidden(self, inputs: Tensor) -> Tensor:
        """inputs: classes [b, t]; hidden states [b, t, h]."""
        states: Tensor = self.lstm(self.dropout(self.embedding(inputs)))[0]
        dropped: Tensor = self.dropout(states)
        return dropped

    def ln_p(self, hidden: Tensor) -> Tensor:
        """Of every class, [n, h] -> [n, classes]. BOS and UNK never come; not -inf, since 0 * ln 0 is to be 0."""
        logits: Tensor = self.head(hidden)
        logits[:, BOS] = logits[:, UNK] = -60.0
        return logits.log_softmax(-1)


@dataclass(frozen=True)
class TokenNets:
    """The networks of one bundle, one per fold of the training, and how the rare tokens share their class."""

    nets: tuple[TokenLstm, ...]
    ln_share: F32  # [vocabulary] ln of a token's share in its class: 0 for a class of its own


@dataclass(frozen=True)
class Surprises:
    """What the networks say, averaged over them. Targets in the order of Stretches.is_target."""

    nll: F32  # [targets] -ln p of the token that came
    entropy: F32  # [targets] of the prediction: the surprise to be expected
    mean_hidden: F32  # [s, nets * h] over warm-up and targets
    last_hidden: F32  # [s, nets * h]


@dataclass(frozen=True)
class Lanes:
    """Stretches of similar length side by side, padded on the right."""

    stretch: I64  # [b]
    inputs: I64  # [b, t] classes
    alive: Bool  # [b, t] not padding
    scored: I64  # places in the flattened [b, t] that predict a target
    targets: I64  # [len(scored)] token ids
    place: I64  # [len(scored)] index among all targets


def surprises(nets: TokenNets, stretches: Stretches, warm_up: int = WARM_UP) -> Surprises:
    """Scores every target of every stretch. How stretches are batched changes no more than the rounding."""
    n_targets = int(stretches.is_target.sum())
    width = sum(net.settings.hidden for net in nets.nets)
    nll, entropy = np.zeros(n_targets, np.float32), np.zeros(n_targets, np.float32)
    mean, last = (np.zeros((len(stretches), width), np.float32) for _ in range(2))
    out = Surprises(nll, entropy, mean, last)
    # Lanes write where no others do.
    each(lambda lanes: _score(nets, lanes, out), lanes_of(stretches, nets.nets[0].settings.n_classes, warm_up))
    return out


def likeliest(nets: TokenNets, stretches: Stretches) -> I32:
    """The most probable class in place of every target, for explanations: slower than `surprises`. [targets]"""
    found = np.zeros(int(stretches.is_target.sum()), np.int32)
    with torch.inference_mode():
        for lanes in lanes_of(stretches, nets.nets[0].settings.n_classes, WARM_UP):
            inputs, scored = torch.from_numpy(lanes.inputs), torch.from_numpy(lanes.scored)
            p = sum(net.ln_p(net.hidden(inputs).flatten(0, 1)[scored]).exp() for net in nets.nets)
            found[lanes.place] = torch.as_tensor(p).argmax(-1).numpy()
    return found


def lanes_of(stretches: Stretches, n_classes: int, warm_up: int) -> Iterator[Lanes]:
    """Batches of stretches sorted by length. A stretch without a target is left out."""
    target = stretches.is_target
    start = np.maximum(stretches.fresh - warm_up, stretches.first[:-1])
    size = np.where(stretches.fresh < stretches.first[1:], stretches.first[1:] - start, 0)
    previous = np.roll(stretches.tokens, 1)
    begins = np.diff(stretches.first) > 0
    previous[stretches.first[:-1][begins]] = np.where(stretches.begins, BOS, UNK)[begins]
    columns = (np.minimum(previous, n_classes - 1), stretches.tokens, target, np.cumsum(target) - 1)
    order = np.argsort(size, kind="stable")
    order = order[size[order] > 0]
    while len(order):
        # Sorted by size, so n lanes take n times the last one's size: the most that fits.
        n = max(1, int(np.searchsorted(size[order] * np.arange(1, len(order) + 1), BATCH_STEPS, side="right")))
        yield _side_by_side(order[:n], start[order[:n]], size[order[:n]], columns)
        order = order[n:]


def _side_by_side(stretch: I64, start: I64, size: I64, columns: tuple[I32, I32, Bool, I64]) -> Lanes:
    previous, tokens, target, place = columns
    step = np.arange(size[-1])
    alive = step < size[:, None]
    at = np.where(alive, start[:, None] + step, start[:, None])
    scored = np.flatnonzero(alive & target[at])
    chosen = at.reshape(-1)[scored]
    return Lanes(stretch, previous[at].astype(np.int64), alive, scored, tokens[chosen].astype(np.int64), place[chosen])


@torch.inference_mode()
def _score(nets: TokenNets, lanes: Lanes, out: Surprises) -> None:
    inputs, scored = torch.from_numpy(lanes.inputs), torch.from_numpy(lanes.scored)
    size = lanes.alive.sum(1)
    weight = torch.from_numpy((lanes.alive / size[:, None]).astype(np.float32))[:, None]
    each, last = torch.arange(len(size)), torch.from_numpy(size - 1)
    at = 0
    for net in nets.nets:
        hidden = net.hidden(inputs)
        end = at + net.settings.hidden
        out.mean_hidden[lanes.stretch, at:end] = torch.bmm(weight, hidden)[:, 0].numpy()
        out.last_hidden[lanes.stretch, at:end] = hidden[each, last].numpy()
        at = end
        _compare(net, hidden.flatten(0, 1)[scored], lanes, nets, out)


def _compare(net: TokenLstm, hidden: Tensor, lanes: Lanes, nets: TokenNets, out: Surprises) -> None:
    """Adds one network's share of surprise and entropy. hidden [scored, h]."""
    n_classes, n_nets = net.settings.n_classes, len(nets.nets)
    rows = max(1, HEAD_LOGITS // n_classes)
    for at in range(0, len(lanes.targets), rows):
        ln_p = net.ln_p(hidden[at : at + rows])
        target, place = lanes.targets[at : at + rows], lanes.place[at : at + rows]
        own = ln_p.numpy()[np.arange(len(target)), np.minimum(target, n_classes - 1)] + nets.ln_share[target]
        p = np.where(target == UNK, 0.0, np.exp(own))
        out.nll[place] -= np.log((1 - UNIFORM) * p + UNIFORM / len(nets.ln_share)) / n_nets
        out.entropy[place] -= (ln_p.exp() * ln_p).sum(-1).numpy() / n_nets
