"""The loader: every sample once, shuffled well, split by rank, resumed exactly, errors raised where they are met."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_data import make_dataset

from hotrow.data import Dataset, Loader
from hotrow.errors import ConfigError, FormatError, HotrowError
from hotrow.jagged import Batch


def numbers(batch: Batch) -> list[int]:
    return batch.dense[:, 0].to(torch.int64).tolist()


def equal(a: Batch, b: Batch) -> bool:
    def tensors(batch: Batch) -> list[torch.Tensor]:
        found = [batch.dense, batch.labels, batch.sparse.values(), batch.sparse.offsets()]
        return found if batch.weights is None else [*found, batch.weights]

    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(tensors(a), tensors(b), strict=True))


def expected_bags(directory: Path) -> dict[str, list[list[int]]]:
    """Bags of every sample, read without the loader."""
    from hotrow.data import Shard

    dataset = Dataset.open(directory)
    bags: dict[str, list[list[int]]] = {f.name: [] for f in dataset.manifest.features}
    for info in dataset.manifest.shards("train"):
        with Shard(directory, dataset.manifest, info) as shard:
            for feature in dataset.manifest.features:
                ids = shard.sparse(feature.name)
                if feature.is_multi_valued:
                    bags[feature.name] += [
                        x.tolist() for x in np.split(ids, shard.offsets(feature.name)[1:-1])
                    ]
                else:
                    bags[feature.name] += [[x] for x in ids.tolist()]
    return bags


@pytest.mark.parametrize("shuffle_rows", [0, 50, 500, 10_000])
@pytest.mark.parametrize("num_multi", [0, 2])
def test_every_sample_once_with_its_own_columns(tmp_path: Path, shuffle_rows: int, num_multi: int) -> None:
    make_dataset(tmp_path, num_multi=num_multi, num_labels=2, weights=True)
    bags = expected_bags(tmp_path)
    in_order = list(Loader(tmp_path, "train", 2001))[0]
    seen: list[int] = []
    for batch in Loader(tmp_path, "train", 64, shuffle_rows=shuffle_rows, seed=3):
        rows = numbers(batch)
        seen += rows
        assert batch.labels.shape == (len(rows), 2)
        assert torch.equal(batch.labels, in_order.labels[rows])
        assert batch.weights is not None
        assert in_order.weights is not None
        assert torch.equal(batch.weights, in_order.weights[rows])
        assert batch.sparse.values().dtype == torch.int32
        got = iter(torch.split(batch.sparse.values(), batch.sparse.lengths().tolist()))
        for key in batch.sparse.keys():  # noqa: SIM118
            for row in rows:
                assert next(got).tolist() == bags[key][row]
    assert sorted(seen) == list(range(2001))
    assert (seen == sorted(seen)) == (shuffle_rows == 0)


def test_ids_are_int64_when_one_feature_needs_it(tmp_path: Path) -> None:
    make_dataset(tmp_path, num_multi=1, num_rows=2**33)
    bags = expected_bags(tmp_path)
    batch = next(iter(Loader(tmp_path, "train", 100, shuffle_rows=300)))
    assert batch.sparse.values().dtype == torch.int64
    assert int(batch.sparse.values().max()) > 2**31
    assert batch.sparse.values()[:100].tolist() == [bags["f0"][row][0] for row in numbers(batch)]


def test_shuffle_is_a_function_of_seed_and_epoch_and_mixes_far(tmp_path: Path) -> None:
    make_dataset(tmp_path, sizes=(20_000, 20_000))

    def order(seed: int, epoch: int) -> list[int]:
        loader = Loader(tmp_path, "train", 500, shuffle_rows=4_000, seed=seed)
        loader.set_epoch(epoch)
        return [number for batch in loader for number in numbers(batch)]

    first = order(1, 0)
    assert first == order(1, 0)
    assert first != order(2, 0)
    assert first != order(1, 1)
    # The first tenth of the epoch comes from all over the data, and neighbours are far apart.
    head = np.array(first[:4_000])
    assert head.min() < 4_000
    assert head.max() > 36_000
    assert np.median(np.abs(np.diff(head))) > 5_000


@given(
    sizes=st.lists(st.integers(0, 400), min_size=1, max_size=5),
    batch_size=st.integers(1, 70),
    shuffle_rows=st.sampled_from([0, 1, 100, 5_000]),
    world_size=st.integers(1, 5),
    drop_last=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_ranks_are_disjoint_and_have_equally_many_batches(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    batch_size: int,
    shuffle_rows: int,
    world_size: int,
    drop_last: bool,
) -> None:
    directory = tmp_path_factory.mktemp("ranks")
    make_dataset(directory, tuple(sizes), num_single=1, num_multi=1)
    if drop_last and sum(sizes) > 0 and sum(sizes) // world_size < batch_size:
        with pytest.raises(ConfigError, match="too few for one batch"):
            Loader(directory, "train", batch_size, world_size=world_size, drop_last=True)
        return
    seen: list[int] = []
    counts = set()
    for rank in range(world_size):
        loader = Loader(
            directory,
            "train",
            batch_size,
            shuffle_rows=shuffle_rows,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        counts.add(len(batches))
        assert sum(b.num_samples for b in batches) == loader.num_samples
        if drop_last:
            assert all(b.num_samples == batch_size for b in batches)
        assert all(b.sparse.stride() == b.num_samples for b in batches)
        seen += [number for batch in batches for number in numbers(batch)]
    assert len(counts) == 1
    assert len(set(seen)) == len(seen)
    if not drop_last:
        assert sorted(seen) == list(range(sum(sizes)))
    else:
        assert sum(sizes) - len(seen) < world_size * (batch_size + 1)


@pytest.mark.parametrize("shuffle_rows", [0, 300])
@pytest.mark.parametrize("stop", [0, 1, 7, 20, 21, 25, 42])
def test_resume_gives_the_same_batches(tmp_path: Path, shuffle_rows: int, stop: int) -> None:
    """2001 samples are 21 batches of 100: the stops lie inside, at the end of, and behind the first epoch."""
    make_dataset(tmp_path, num_multi=2, weights=True)

    def make() -> Loader:
        return Loader(tmp_path, "train", 100, shuffle_rows=shuffle_rows, seed=5, num_prefetch=6)

    def take(loader: Loader, num: int) -> list[Batch]:
        batches: list[Batch] = []
        while len(batches) < num:
            for batch in loader:
                batches.append(batch)
                if len(batches) == num:
                    break
        return batches

    uninterrupted = take(make(), 60)
    loader = make()
    take(loader, stop)
    state = json.loads(json.dumps(loader.state_dict()))
    assert (state["epoch"], state["batch"]) == divmod(stop, 21)
    resumed = make()
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.position) == divmod(stop, 21)
    for a, b in zip(take(resumed, 60 - stop), uninterrupted[stop:], strict=True):
        assert equal(a, b)


def test_resume_in_a_fresh_process(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    loader = Loader(tmp_path, "train", 100, shuffle_rows=300)
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
    state = json.dumps(loader.state_dict())
    code = textwrap.dedent(
        """
        import json, sys
        from hotrow.data import Loader
        loader = Loader(sys.argv[1], "train", 100, shuffle_rows=300)
        loader.load_state_dict(json.loads(sys.argv[2]))
        print(next(iter(loader)).dense[:, 0].tolist())
        """
    )
    run = [sys.executable, "-c", code, str(tmp_path), state]
    found = subprocess.run(
        run, check=True, capture_output=True, text=True, timeout=60
    )  # also: it exits at once
    assert json.loads(found.stdout) == next(iterator).dense[:, 0].tolist()


def test_state_is_of_the_last_batch_handed_out_not_of_the_thread(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    loader = Loader(tmp_path, "train", 10, num_prefetch=50)
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    assert loader.state_dict()["batch"] == 2


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 1}),
        ("batch_size", {"batch_size": 99}),
        ("shuffle_rows", {"shuffle_rows": 10}),
        ("drop_last", {"drop_last": True}),
        ("world_size", {"world_size": 2}),
    ],
)
def test_foreign_state_is_refused_by_name(tmp_path: Path, name: str, change: dict[str, int]) -> None:
    make_dataset(tmp_path)
    state = Loader(tmp_path, "train", 100).state_dict()
    options = {"batch_size": 100, **change}
    with pytest.raises(FormatError, match=f"{name} is .*, this loader has"):
        Loader(tmp_path, "train", **options).load_state_dict(state)


def test_state_of_another_dataset_and_broken_states_are_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path / "a")
    make_dataset(tmp_path / "b", seed=1)
    loader = Loader(tmp_path / "a", "train", 100)
    state = loader.state_dict()
    with pytest.raises(FormatError, match="dataset_id is"):
        Loader(tmp_path / "b", "train", 100).load_state_dict(state)
    with pytest.raises(FormatError, match="missing field 'batch'"):
        loader.load_state_dict({k: v for k, v in state.items() if k != "batch"})
    with pytest.raises(FormatError, match="batch 99 are not in an epoch of 21"):
        loader.load_state_dict({**state, "batch": 99})


def test_loader_is_a_cursor(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    loader = Loader(tmp_path, "train", 1000)
    assert len(loader) == 3
    for batch in loader:
        assert numbers(batch)[0] == 0
        break
    assert [numbers(b)[0] for b in loader] == [1000, 2000]
    assert (loader.epoch, loader.position) == (1, 0)
    assert len(list(loader)) == 3
    loader.set_epoch(1)
    old = iter(loader)
    next(old)
    assert numbers(next(iter(loader)))[0] == 1000
    assert list(old) == []  # a new iterator ends the one before


def test_more_shards_than_are_kept_open(tmp_path: Path) -> None:
    make_dataset(tmp_path, sizes=(3,) * 300, num_multi=1)

    loader = Loader(tmp_path, "train", 50, shuffle_rows=100)
    seen = []
    for batch in loader:
        seen += numbers(batch)
        assert num_open_shards() <= 130
    assert sorted(seen) == list(range(900))


def num_open_shards() -> int:
    return sum("shard" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_resume_reads_no_more_than_the_buffer(tmp_path: Path) -> None:
    make_dataset(tmp_path, sizes=(3,) * 100)
    loader = Loader(tmp_path, "train", 10, shuffle_rows=30, num_prefetch=1)
    batches = [numbers(batch) for batch in loader]
    state = {**loader.state_dict(), "epoch": 0, "batch": 25}
    loader.close()
    del loader
    before = num_open_shards()
    resumed = Loader(tmp_path, "train", 10, shuffle_rows=30, num_prefetch=1)
    resumed.load_state_dict(state)
    assert numbers(next(iter(resumed))) == batches[25]
    assert num_open_shards() - before < 25  # of 100: a block is 10 or 11 shards, and half of the next


def test_state_is_the_same_on_every_rank(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    loaders = [Loader(tmp_path, "train", 100, rank=rank, world_size=2) for rank in (0, 1)]
    for loader in loaders:
        next(iter(loader))
    assert loaders[0].state_dict() == loaders[1].state_dict()


def test_no_thread_outlives_its_iterator(tmp_path: Path) -> None:
    make_dataset(tmp_path)

    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("hotrow-loader")]

    with Loader(tmp_path, "train", 10, shuffle_rows=100) as loader:
        iterator = iter(loader)
        next(iterator)
        assert threads()
    assert not threads()
    assert next(iterator, None) is None
    for _ in Loader(tmp_path, "train", 10):
        break
    assert not threads()
    with pytest.raises(ZeroDivisionError):
        for _ in Loader(tmp_path, "train", 10):
            raise ZeroDivisionError
    list(loader)
    assert not threads()


def test_exit_with_an_open_iterator_does_not_hang(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    code = "import sys; from hotrow.data import Loader; i = iter(Loader(sys.argv[1], 'train', 10)); next(i)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


def _remove(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _alter_data(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)


def _alter_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_remove, _truncate, _alter_data, _alter_header])
@pytest.mark.parametrize("shuffle_rows", [0, 200])
def test_broken_shard_is_raised_to_the_caller_with_its_name(
    tmp_path: Path, damage: object, shuffle_rows: int
) -> None:
    make_dataset(tmp_path)
    damage(tmp_path / "train-2.shard")  # type: ignore[operator]
    loader = Loader(tmp_path, "train", 100, shuffle_rows=shuffle_rows)
    with pytest.raises(FormatError, match=r"train-2\.shard"):
        list(loader)
    with pytest.raises(FormatError, match=r"train-2\.shard"):  # again, not a silent end
        list(loader)


@given(position=st.integers(0, 10_000_000), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_is_found_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    directory = tmp_path_factory.mktemp("flip")
    make_dataset(directory, (120, 80), num_multi=1, weights=True)
    before = list(Loader(directory, "train", 64))
    path = directory / "train-1.shard"
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        after = list(Loader(directory, "train", 64))
    except HotrowError as error:
        assert "train-1.shard" in str(error)
    else:  # a byte between two columns
        assert all(equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 1, "shuffle_rows": -1},
        {"batch_size": 1, "rank": 2, "world_size": 2},
        {"batch_size": 1, "num_prefetch": 0},
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, int]) -> None:
    make_dataset(tmp_path)
    with pytest.raises(ConfigError, match="loader: "):
        Loader(tmp_path, "train", **options)


def test_unknown_split_and_missing_directory(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    with pytest.raises(FormatError, match="no split 'test'"):
        Loader(tmp_path, "test", 10)
    with pytest.raises(HotrowError, match=r"manifest\.json"):
        Loader(tmp_path / "nowhere", "train", 10)
