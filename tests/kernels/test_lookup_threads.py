"""The native pool under Python: several threads, a fork, torch's own threads beside it."""

from __future__ import annotations

import os
import threading

import torch

from hotrow import kernels
from hotrow.kernels import FeatureSpec, TableGroup, TableSpec


def make_case() -> tuple[TableGroup, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    group = TableGroup(
        [TableSpec("t", 64)], [FeatureSpec("f", 0)], [torch.randn(1000, 64, generator=generator)]
    )
    values = torch.randint(0, 1000, (40_000,), generator=generator)
    offsets = torch.arange(0, 40_001, 10)
    return group, values, offsets, kernels.pooled_lookup(group, values, offsets)


def test_several_python_threads_at_once() -> None:
    group, values, offsets, expected = make_case()
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not torch.equal(kernels.pooled_lookup(group, values, offsets), expected):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_child_of_a_fork() -> None:
    group, values, offsets, expected = make_case()
    child = os.fork()
    if child == 0:  # torch's own threads do not survive a fork: the child compares without them
        same = kernels.pooled_lookup(group, values, offsets).numpy().tobytes() == expected.numpy().tobytes()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_denormal_mode_of_the_caller_holds_on_every_thread() -> None:
    """Flushing denormals is a mode of a thread; the helpers take the caller's."""
    rows = torch.full((1000, 64), 1e-39)
    group = TableGroup([TableSpec("t", 64)], [FeatureSpec("f", 0)], [rows])
    values, offsets = torch.zeros(40_000, dtype=torch.int64), torch.arange(0, 40_001, 10)
    if not torch.set_flush_denormal(True):
        return
    try:
        flushed = kernels.pooled_lookup(group, values, offsets)
    finally:
        torch.set_flush_denormal(False)
    kept = kernels.pooled_lookup(group, values, offsets)
    assert not flushed.view(torch.int32).any()
    assert bool((kept.view(torch.int32) != 0).all())
