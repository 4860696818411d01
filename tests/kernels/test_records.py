"""Records: rows and state out of slots and back, and initial values at arbitrary slots."""

from __future__ import annotations

import math

import pytest
import torch

from hotrow import DataType, kernels, optim
from hotrow.core import INT8_TAIL_BYTES
from hotrow.errors import ConfigError, DataError
from hotrow.kernels import TableGroup, TableSpec

OPTIMIZERS = [optim.SGD(), optim.RowWiseAdagrad(), optim.Adagrad(), optim.Adam()]


def make_group(sizes, data_type, optimizer):
    """A group of random arenas, ``sizes``: (slots, dim) of each table."""
    generator = torch.Generator().manual_seed(3)
    specs, rows, state, row_ids = [], [], [], []
    for index, (num_slots, dim) in enumerate(sizes):
        specs.append(TableSpec(f"t{index}", dim, data_type, random_key=77 + index))
        exact = torch.rand(num_slots, dim, generator=generator)
        rows.append(
            kernels.quantize_rows(exact)
            if data_type is DataType.INT8
            else exact.to(torch.float32 if data_type is DataType.FP32 else torch.bfloat16)
        )
        shapes = {} if data_type is DataType.INT8 else optimizer.state_shapes(dim)
        state.append({k: torch.rand(num_slots, *shape, generator=generator) for k, shape in shapes.items()})
        row_ids.append(torch.zeros(num_slots, dtype=torch.int64))
    return TableGroup(specs, [], rows, state, row_ids)


def expected_records(group, table, slots):
    index = slots.long()
    parts = [group.rows[table][index].view(torch.uint8).flatten(1)]
    parts += [
        a[index].view(len(slots), math.prod(a.shape[1:])).view(torch.uint8)
        for a in group.state[table].values()
    ]
    return torch.cat(parts, 1)


def slots_of(num_slots, count, seed=0):
    order = torch.randperm(num_slots, generator=torch.Generator().manual_seed(seed))
    return order[:count].to(torch.uint32)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
@pytest.mark.parametrize("data_type", list(DataType), ids=lambda d: d.value)
@pytest.mark.parametrize("dim", [1, 5, 16, 33])
def test_records_are_row_then_state(optimizer, data_type, dim):
    group = make_group([(50, dim), (9, 4)], data_type, optimizer)
    slots = slots_of(50, 31)
    records = kernels.read_records(group, 0, slots)
    assert records.shape == (31, kernels.record_bytes(group, 0))
    assert torch.equal(records, expected_records(group, 0, slots))
    other = make_group([(60, dim), (9, 4)], data_type, optimizer)
    targets, row_ids = slots_of(60, 31, seed=1), slots_of(1000, 31, seed=2)
    untouched = sorted(set(range(60)) - set(targets.tolist()))
    before = expected_records(other, 0, torch.tensor(untouched, dtype=torch.uint32))
    kernels.write_records(other, 0, targets, records, row_ids)
    assert torch.equal(kernels.read_records(other, 0, targets), records)
    assert torch.equal(expected_records(other, 0, torch.tensor(untouched, dtype=torch.uint32)), before)
    assert torch.equal(other.row_ids[0][targets.long()], row_ids.long())


@pytest.mark.parametrize("data_type", list(DataType), ids=lambda d: d.value)
@pytest.mark.parametrize("level", kernels.cpu_levels())
@pytest.mark.parametrize("dim", [1, 16, 37])
def test_initial_values_are_those_of_whole_tables(data_type, level, dim):
    group = make_group([(8, 3), (40, dim)], data_type, optim.Adam())
    exact = torch.empty(5000, dim, dtype=torch.bfloat16 if data_type is DataType.BF16 else torch.float32)
    kernels.initialize_rows(exact, -0.3, 0.2, seed=11, random_key=78)
    whole = kernels.quantize_rows(exact) if data_type is DataType.INT8 else exact
    slots, row_ids = slots_of(40, 25), slots_of(5000, 25, seed=4)
    before = kernels.active_level()
    kernels.force_level(level)
    try:
        kernels.initialize_slots(group, 1, slots, row_ids, -0.3, 0.2, seed=11)
    finally:
        kernels.force_level(before)
    assert torch.equal(group.rows[1][slots.long()], whole[row_ids.long()])
    for array in group.state[1].values():
        assert not array[slots.long()].any() and array.any()
    assert torch.equal(group.row_ids[1][slots.long()], row_ids.long())


@pytest.mark.parametrize("num_threads", [1, 2])
def test_moves_of_several_tables_with_rows_that_were_never_written(num_threads):
    sizes = [(5000, 16), (7, 3), (300, 8)]
    group, whole = make_group(sizes, DataType.FP32, optim.Adagrad()), []
    counts, bounds = [4500, 0, 250], [(-1.0, 1.0), (0.0, 0.5), (-0.25, 0.25)]
    slots = [slots_of(size, count, seed=9) for (size, _), count in zip(sizes, counts)]
    row_ids = [slots_of(10**6, count, seed=8) for count in counts]
    begin = torch.tensor([0, 4500, 4500, 4750])
    moves = kernels.Moves(begin, torch.cat(row_ids), torch.cat(slots))
    records = kernels.read_moves(group, moves, num_threads=num_threads)
    assert records.numel() == kernels.moved_bytes(group, moves)
    assert torch.equal(
        records, torch.cat([expected_records(group, t, s).flatten() for t, s in enumerate(slots)])
    )
    found = (torch.arange(len(moves)) % 3 != 0).to(torch.uint8)
    target = make_group(sizes, DataType.FP32, optim.Adagrad())
    for arrays in (target.rows, *[s.values() for s in target.state]):
        for array in arrays:
            array.zero_()
    kernels.write_moves(target, moves, records, found, bounds=bounds, seed=5, num_threads=num_threads)
    for t in (0, 2):
        has = found[begin[t] : begin[t + 1]].bool()
        whole = make_group(
            [size if i != t else (1, size[1]) for i, size in enumerate(sizes)], DataType.FP32, optim.SGD()
        )
        assert torch.equal(
            kernels.read_records(target, t, slots[t])[has], expected_records(group, t, slots[t])[has]
        )
        for slot, row in zip(slots[t][~has][:20].tolist(), row_ids[t][~has][:20].tolist()):
            one = whole.rows[t]
            kernels.initialize_rows(one, *bounds[t], seed=5, random_key=77 + t, first_row=row)
            assert torch.equal(target.rows[t][slot], one[0])
            assert not target.state[t]["sum"][slot].any()


def test_what_cannot_be_moved():
    group = make_group([(10, 4)], DataType.FP32, optim.SGD())
    good = torch.tensor([1, 2], dtype=torch.uint32)
    with pytest.raises(ConfigError, match="'t0': slot 10 is outside its arena of 10"):
        kernels.read_records(group, 0, torch.tensor([1, 10], dtype=torch.uint32))
    with pytest.raises(ConfigError, match="slot 4294967295"):
        kernels.initialize_slots(group, 0, torch.tensor([-1], dtype=torch.int32), good[:1], 0, 1, seed=0)
    with pytest.raises(DataError, match="slots: torch.int64"):
        kernels.read_records(group, 0, torch.tensor([1]))
    with pytest.raises(DataError, match="one contiguous record per slot"):
        kernels.write_records(group, 0, good, torch.zeros(3, 16, dtype=torch.uint8))
    with pytest.raises(DataError, match="give 32 bytes"):
        kernels.write_records(group, 0, good, torch.zeros(2, 15, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="finite bounds"):
        kernels.initialize_slots(group, 0, good, good, 1.0, 0.0, seed=0)
    assert INT8_TAIL_BYTES == 8  # records of INT8 rows end with scale and bias
