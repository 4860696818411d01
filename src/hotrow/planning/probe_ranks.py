"""Between ranks: all-to-all and all-reduce by bytes of a message, over ``torch.distributed``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from hotrow import env
from hotrow.measurements import Measurement
from hotrow.planning.timing import measurement

MESSAGE_BYTES = (4 << 10, 64 << 10, 1 << 20, 16 << 20)
"""That one rank sends in all."""
NUM_SAMPLES = 9


def is_distributed() -> bool:
    """Whether there are several ranks: a process group, or what ``torchrun`` says."""
    if not distributed.is_available():
        return False
    return bool(distributed.is_initialized()) or env.world_size() > 1


@contextmanager
def process_group() -> Iterator[None]:
    """The group that is there, or one of our own (gloo, NCCL where every rank has a device) while it is needed."""
    if distributed.is_initialized():
        yield
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def probe_ranks() -> list[Measurement]:
    """Called by all ranks together: bytes a rank sends in a second. The slowest rank counts."""
    backend, size = str(distributed.get_backend()), distributed.get_world_size()
    device = torch.device("cuda", env.local_rank()) if backend == "nccl" else torch.device("cpu")
    found = []
    for num_bytes in MESSAGE_BYTES:
        count = num_bytes // 4 // size * size
        message, answer = torch.ones(count, device=device), torch.empty(count, device=device)
        at = {"bytes": num_bytes, "ranks": size, "backend": backend}
        swap = [_timed_exchange(answer, message) for _ in range(NUM_SAMPLES + 1)][1:]
        total = [_timed_sum(message) for _ in range(NUM_SAMPLES + 1)][1:]
        found.append(measurement("all-to-all", "bytes/s", [count * 4 / s for s in swap], **at))
        found.append(measurement("all-reduce", "bytes/s", [count * 4 / s for s in total], **at))
    return found


def _timed_exchange(answer: Tensor, message: Tensor) -> float:
    distributed.barrier()
    begin = time.perf_counter()
    distributed.all_to_all_single(answer, message)
    return _slowest(begin, message)


def _timed_sum(message: Tensor) -> float:
    distributed.barrier()
    begin = time.perf_counter()
    distributed.all_reduce(message)
    return _slowest(begin, message)


def _slowest(begin: float, message: Tensor) -> float:
    if message.is_cuda:
        torch.cuda.synchronize()
    seconds = torch.tensor([time.perf_counter() - begin], device=message.device, dtype=torch.float64)
    distributed.all_reduce(seconds, distributed.ReduceOp.MAX)
    return float(seconds)
