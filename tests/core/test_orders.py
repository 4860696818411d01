"""Orders as values: permutations, their digests and files, and what heat makes of them."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotrow.errors import ConfigError, FormatError, StorageError
from hotrow.orders import FIRST_CUT, MAP_BYTES_PER_ROW, Order
from hotrow.storage import Places


@st.composite
def orders(draw, max_rows=300):
    """Any permutation, of few rows or of all."""
    num_rows = draw(st.integers(1, max_rows))
    rows = draw(st.lists(st.integers(0, num_rows - 1), unique=True, max_size=num_rows))
    return Order.of(num_rows, np.array(rows, np.int64), np.array(draw(st.permutations(rows)), np.int64))


def dense(order):
    return order.places_of(np.arange(order.num_rows))


@given(orders(), st.data())
def test_an_order_is_a_permutation_with_inverse_and_composition(order, data):
    rows = np.arange(order.num_rows)
    places = dense(order)
    assert sorted(places) == list(rows)
    assert np.array_equal(order.ids_of(places), rows)
    assert order.then(order.inverse()).is_identity and order.inverse().then(order).order_id == "identity"
    assert order.inverse().inverse().order_id == order.order_id
    assert order.num_moved_rows == np.count_nonzero(places != rows)
    assert np.array_equal(order.ids, np.sort(order.ids))
    other = data.draw(st.permutations(range(order.num_rows)))
    other = Order.of(order.num_rows, rows, np.array(other))
    assert np.array_equal(dense(order.then(other)), dense(other)[places])


@given(orders())
def test_files_give_the_order_back(tmp_path_factory, order):
    path = tmp_path_factory.mktemp("order") / "order.safetensors"
    order.save(path)
    found = Order.load(path)
    assert found.order_id == order.order_id and np.array_equal(dense(found), dense(order))
    from safetensors.numpy import load_file

    arrays = load_file(path)
    assert np.array_equal(arrays["ids"], order.ids) and np.array_equal(arrays["places"], order.places)


def test_the_id_is_that_of_the_permutation():
    swap = Order.of(10, np.array([7, 2]), np.array([2, 7]))
    assert Order.of(10, np.array([2, 7, 5]), np.array([7, 2, 5])).order_id == swap.order_id
    assert swap.order_id.startswith("sha256:") and len(swap.order_id) == 71
    others = [Order.of(11, swap.ids, swap.places), Order.of(10, np.array([7, 3]), np.array([3, 7]))]
    assert len({swap.order_id, *(o.order_id for o in others)}) == 3
    assert Order.identity(10).order_id == "identity" and Order.identity(10).memory_bytes == 0
    # The digest is part of the file format: files written earlier are in the order they say.
    assert swap.order_id == "sha256:" + GOLDEN


GOLDEN = "1497690af604e31d650c78a4bafbe0ce6d1dc84c17aa3b5917a445f8a9001329"


@pytest.mark.parametrize(
    ("ids", "places", "message"),
    [
        ([1, 10], [10, 1], "row 10 is outside a table of 10 rows"),
        ([-1, 3], [3, -1], "row -1 is outside"),
        ([1, 1], [1, 1], "row 1 is there twice"),
        ([1, 2], [2, 3], "no permutation: rows and places differ, first 1 and 2"),
        ([1, 2], [2, 2], "no permutation"),
        ([1, 2], [2], "one place per id"),
    ],
)
def test_what_is_no_permutation_is_refused(ids, places, message):
    with pytest.raises(ConfigError, match=message):
        Order.of(10, np.array(ids), np.array(places))


def altered(path, change):
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    body = bytearray(content[8 + size :])
    change(header, body)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))


def set_metadata(**values):
    return lambda header, body: header["__metadata__"].update(values)


def cut(header, body):
    del body[-4:]


def flip(header, body):
    body[0] ^= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_metadata(format="pt"), "this is a 'pt' file, expected 'hotrow-order'"),
        (set_metadata(format_version="2"), "format_version 2 is unknown"),
        (set_metadata(num_rows="5"), "outside a table of 5 rows"),
        (set_metadata(num_rows="many"), "is no number"),
        (set_metadata(order_id="sha256:00"), "names order sha256:00, its rows are in order sha256:"),
        (cut, "'places' is .*truncated"),
        (flip, "no permutation|names order|twice"),
        (lambda header, body: header.pop("ids"), "missing field 'ids'"),
        (lambda header, body: header["ids"].update(dtype="I32"), "expected U32"),
    ],
)
def test_files_that_were_altered_are_refused(tmp_path, change, message):
    path = tmp_path / "order.safetensors"
    Order.of(100, np.array([7, 2, 30]), np.array([2, 30, 7])).save(path)
    altered(path, change)
    with pytest.raises(FormatError, match=message) as error:
        Order.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 64, struct.pack("<Q", 4) + b"nope", b"\x02" + b"\0" * 7 + b"[]"]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="x: "):
        Order.load(path)
    with pytest.raises(FormatError, match="missing"):
        Order.load(tmp_path / "none")
    with pytest.raises(StorageError, match="cannot read"):
        Order.load(tmp_path)


# -- by heat


def caught(order, counts, cut):
    """Share of the accesses that a prefix of places catches."""
    at_place = np.empty_like(counts)
    at_place[dense(order)] = counts
    return at_place[:cut].sum() / counts.sum()


def zipf(num_rows, num_lookups, seed):
    heat = 1 / np.arange(1, num_rows + 1) ** 1.05
    return np.random.default_rng(seed), num_lookups * heat / heat.sum()


def test_rows_in_order_of_heat_stay():
    rng, heat = zipf(20_000, 200_000, 0)
    order = Order.by_heat(rng.poisson(heat))
    assert order.num_moved_rows < 0.08 * 20_000  # by chance
    assert Order.by_heat(np.full(20_000, 100)).is_identity
    assert Order.by_heat(np.zeros(20_000, np.int64)).is_identity
    assert Order.by_heat(
        rng.integers(0, 4, 20_000)
    ).is_identity  # four accesses against none are the first that count


@pytest.mark.parametrize("is_scrambled", [False, True])
def test_every_prefix_catches_what_the_best_would(is_scrambled):
    rng, heat = zipf(20_000, 2_000_000, 1)
    if is_scrambled:
        heat = rng.permutation(heat)
    else:  # a twentieth of the rows changes places
        some = rng.permutation(20_000)[:1000]
        heat[np.sort(some)] = heat[some]
    order = Order.by_heat(rng.poisson(heat))
    later, best = rng.poisson(heat), np.argsort(-heat)
    for cut in (FIRST_CUT, 1024, 4096):
        assert caught(order, later, cut) > later[best[:cut]].sum() / later.sum() - 0.015
    again = Order.by_heat(later, order)
    assert again.num_moved_rows < 1.2 * order.num_moved_rows + 400
    assert abs(caught(again, later, 1024) - caught(order, later, 1024)) < 0.005


def test_few_moves_are_those_of_the_hottest():
    rng, heat = zipf(20_000, 2_000_000, 2)
    counts = rng.poisson(heat)
    counts[np.arange(5000, 5200)] = 10_000
    order = Order.by_heat(counts, max_moved_rows=100)
    assert 64 < order.num_moved_rows <= 100 and order.memory_bytes == MAP_BYTES_PER_ROW * order.num_moved_rows
    assert np.count_nonzero((order.ids >= 5000) & (order.ids < 5200)) >= 32
    more = Order.by_heat(counts, order, max_moved_rows=400)
    assert order.num_moved_rows < more.num_moved_rows <= 400
    assert Order.by_heat(counts, order, max_moved_rows=10).order_id == order.order_id


def test_heat_of_another_table_is_refused():
    with pytest.raises(ConfigError, match=r"counts of \[7\] for a table of 9 rows"):
        Order.by_heat(np.zeros(7, np.int64), Order.identity(9))


# -- the native twin


@settings(max_examples=60)
@given(orders(), st.sampled_from([torch.int32, torch.int64]), st.data())
def test_batches_are_translated_as_the_order_says(order, dtype, data):
    places = Places([None, order])
    outside = st.sampled_from([-1, -3, -(2**31), order.num_rows, 2**31 - 1])
    values = st.lists(st.one_of(st.integers(0, order.num_rows - 1), outside), max_size=60)
    ids = torch.tensor(data.draw(values), dtype=dtype)
    mine, other = len(ids) // 3, len(ids) // 2
    found = places.of_batch(ids, [1, 0, 1], [0, mine, other, len(ids)])
    expected = torch.from_numpy(order.places_of(ids.numpy()))
    expected[mine:other] = ids[mine:other]
    assert found.dtype is dtype and torch.equal(found, expected)


def test_ids_beyond_32_bits_stay_what_they_are():
    places = Places([Order.of(10, np.array([1, 2]), np.array([2, 1]))])
    ids = torch.tensor([1, 2**32 + 1, -(2**32) + 2, 2**63 - 1, 2])
    assert places.of_batch(ids, [0], [0, 5]).tolist() == [2, 2**32 + 1, -(2**32) + 2, 2**63 - 1, 1]


def test_identity_costs_nothing():
    places = Places([None, Order.identity(1000)])
    ids = torch.arange(10)
    assert places.of_batch(ids, [0, 1], [0, 5, 10]) is ids and places.memory_bytes == 0 and places.is_identity


def test_memory_is_what_is_stated():
    order = Order.of(10**6, np.arange(10**5), np.roll(np.arange(10**5), 1))
    assert Places([order]).memory_bytes == pytest.approx(order.memory_bytes, rel=0.001)
    assert order.memory_bytes == 22 * 10**5


def test_ranges_of_rows_come_in_order_of_place():
    order = Order.of(20, np.array([1, 18, 5]), np.array([18, 5, 1]))
    moves = Places([None, order]).range_of_rows(2, 1, 0, 8)
    assert moves.begin.tolist() == [0, 0, 8]
    assert moves.places.tolist() == [0, 1, 2, 3, 4, 6, 7, 18]
    assert moves.slots.tolist() == [0, 5, 2, 3, 4, 6, 7, 1]
    assert Places([None, order]).row_ids(moves).tolist() == [0, 5, 2, 3, 4, 6, 7, 1]
    whole = Places([None, order]).range_of_rows(2, 0, 3, 5)
    assert whole.places.tolist() == [3, 4] and whole.slots.tolist() == [0, 1]


def test_the_page_on_orders_runs_as_printed(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "orders.md").read_text()
    monkeypatch.chdir(tmp_path)
    values = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], values)
    assert values["order"].num_moved_rows == 0 or values["order"].order_id.startswith("sha256:")
