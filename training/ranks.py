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

from stream_app.errors import UsageError

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
        import torch
        from torch import distributed

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one message, not one per tensor
        distributed.all_reduce(flat)
        means = torch.split(flat / self.world, [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.reshape(tensor.shape))


ALONE = Ranks()


def local_device(device: str) -> str:
    """The GPU of this process, where each has one. Raises UsageError where there are fewer GPUs than processes."""
    if device != "cuda" or LOCAL_RANK not in os.environ:
        return device
    import torch

    rank, n = int(os.environ[LOCAL_RANK]), torch.cuda.device_count()
    if rank >= n:
        raise UsageError(f"process {rank} has no GPU of its own: there are {n}; --nproc-per-node {n}, or --device cpu")
    return f"cuda:{rank}"


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
