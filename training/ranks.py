"""Ranks: several processes that train one network, started by `torchrun`; each draws batches of its own.

In: torchrun's environment variables. Out: means over all processes. Remembers: the process group, while it is open.
Gradients are averaged, so n processes take steps on n times the batch and hold the same weights at every step. Alone
nothing is sent anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WORLD, RANK, LOCAL_RANK = "WORLD_SIZE", "RANK", "LOCAL_RANK"


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def seed(self, seed: int) -> list[int]:
        """A seed of its own for what each process draws; alone, one that does not depend on there being ranks."""
        return [seed, self.rank] if self.rank else [seed]

    def average(self, tensors: Sequence[Any]) -> None:
        """Each tensor becomes its mean over all processes, in place."""
        if self.world == 1:
            return
        from torch import distributed

        for tensor in tensors:
            distributed.all_reduce(tensor)
            tensor /= self.world


ALONE = Ranks()


def local_device(device: str) -> str:
    """The GPU of this process, where each has one."""
    return f"cuda:{os.environ[LOCAL_RANK]}" if device == "cuda" and LOCAL_RANK in os.environ else device


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The group that torchrun describes, for as long as it is open; without torchrun this process alone."""
    world = int(os.environ.get(WORLD, 1))
    if world == 1:
        yield Ranks()
        return
    from torch import distributed

    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Ranks(int(os.environ[RANK]), world)
    finally:
        distributed.destroy_process_group()
