"""A CUDA device: random rows in its memory, copies from and to pinned memory of the host, dense arithmetic, launches.

Lookups and updates are torch's own operators here: rates of the memory, which kernels can come close to. Times are
the device's, between events, but for launches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotrow.planning.timing import Case

TABLE_BYTES = 4 << 30
"""Of the rows that lookups are spread over; an eighth of the device's memory if that is less."""
ROW_BYTES = (64, 128, 256, 512)
LOOKUPS = 1 << 20
NUM_BATCHES = 4
COPY_BYTES = (4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20)
BATCHES = (256, 2048, 8192, 65536)
WIDTH = 1024


def has_gpu() -> bool:
    """Whether torch can compute on a CUDA device here."""
    return bool(torch.cuda.is_available())


def gpu_facts() -> dict[str, object]:
    """Name, memory and version of the first device, for the fingerprint."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_bytes": int(properties.total_memory),
        "l2_bytes": int(getattr(properties, "L2_cache_size", 0)),
        "num_multiprocessors": int(properties.multi_processor_count),
        "cuda": torch.version.cuda,
    }


def gpu_cases() -> Iterator[Case]:
    """All quantities of the first device."""
    device = torch.device("cuda", 0)
    yield from _row_cases(device)
    yield from _copy_cases(device)
    yield from _dense_cases(device)
    yield Case(what="gpu launch", unit="us", sample=partial(_launch, torch.zeros(16, device=device)))


def _device_seconds(run: Callable[[], object], repeats: int) -> float:
    """Seconds of one ``run`` on the device, in the mean of several that follow each other."""
    make: Callable[..., Any] = torch.cuda.Event
    begin, end = make(enable_timing=True), make(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def _row_cases(device: torch.device) -> Iterator[Case]:
    total = int(torch.cuda.get_device_properties(device).total_memory)
    memory = torch.zeros(min(TABLE_BYTES, total // 8) // 4, device=device)
    for row_bytes in ROW_BYTES:
        rows = memory.view(-1, row_bytes // 4)
        ids = [torch.randint(rows.shape[0], (LOOKUPS,), device=device) for _ in range(NUM_BATCHES)]
        for ids_per_bag in (1, 32):
            offsets = torch.arange(0, LOOKUPS, ids_per_bag, device=device)
            arguments = {
                "row_bytes": row_bytes,
                "arena_bytes": memory.numel() * 4,
                "ids_per_bag": ids_per_bag,
                "data_type": "FP32",
            }
            sample = partial(_each, partial(_pool, rows, offsets), ids)
            yield Case(what="gpu forward", unit="ns/lookup", sample=sample, arguments=arguments)
        gradient = torch.full((LOOKUPS, row_bytes // 4), 1e-6, device=device)
        yield Case(
            what="gpu update",
            unit="ns/row",
            sample=partial(_each, partial(_add, rows, gradient), ids),
            arguments={"row_bytes": row_bytes, "arena_bytes": memory.numel() * 4},
        )


def _pool(rows: Tensor, offsets: Tensor, ids: Tensor) -> None:
    torch.nn.functional.embedding_bag(ids, rows, offsets, mode="sum")


def _add(rows: Tensor, gradient: Tensor, ids: Tensor) -> None:
    rows.index_add_(0, ids, gradient)


def _each(run: Callable[[Tensor], object], batches: list[Tensor]) -> float:
    def one_round() -> None:
        for ids in batches:
            run(ids)

    return _device_seconds(one_round, 1) * 1e9 / (len(batches) * LOOKUPS)


def _copy_cases(device: torch.device) -> Iterator[Case]:
    host = torch.zeros(max(COPY_BYTES), dtype=torch.uint8, pin_memory=True)
    there = torch.zeros(max(COPY_BYTES), dtype=torch.uint8, device=device)
    for direction, source, target in (("to device", host, there), ("from device", there, host)):
        for size in COPY_BYTES:
            sample = partial(_copy_rate, target[:size], source[:size])
            arguments = {"direction": direction, "bytes": size, "pinned": True}
            yield Case(what="gpu copy", unit="bytes/s", sample=sample, arguments=arguments)


def _copy_rate(target: Tensor, source: Tensor) -> float:
    repeats = max(2, min(64, (64 << 20) // source.numel()))
    return source.numel() / _device_seconds(lambda: target.copy_(source, non_blocking=True), repeats)


def _dense_cases(device: torch.device) -> Iterator[Case]:
    layer = torch.nn.Linear(WIDTH, WIDTH, device=device)
    for batch in BATCHES:
        inputs = torch.randn(batch, WIDTH, device=device, requires_grad=True)
        yield Case(
            what="gpu dense",
            unit="FLOP/s",
            sample=partial(_dense_rate, layer, inputs),
            arguments={"batch": batch, "width": WIDTH},
        )


def _dense_rate(layer: torch.nn.Linear, inputs: Tensor) -> float:
    ones = torch.ones(inputs.shape[0], WIDTH, device=inputs.device)
    seconds = _device_seconds(lambda: layer(inputs).backward(ones), 4)
    return 6 * inputs.shape[0] * WIDTH * WIDTH / seconds


def _launch(tensor: Tensor) -> float:
    """Microseconds that the host takes to launch one small operation."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(200):
        tensor.add_(1.0)
    seconds = time.perf_counter() - begin
    torch.cuda.synchronize()
    return seconds / 200 * 1e6
