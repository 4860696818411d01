"""Models whose embedding modules were replaced by tables in one storage directory: the numbers of memory."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import hotrow as hr
from hotrow import ConfigError

OPTIMIZERS = (hr.optim.Adagrad(lr=0.1), hr.optim.Adam(lr=0.05))


class Model(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.users = nn.EmbeddingBag(200, 8, mode="sum", dtype=dtype, padding_idx=3)
        self.items = nn.EmbeddingBag(300, 8, mode="mean", dtype=dtype)
        self.words = nn.Embedding(150, 8, padding_idx=0, dtype=dtype)
        self.head = nn.Linear(8, 1)

    def forward(self, users, items, words):
        pooled = self.users(users, OFFSETS) + self.items(items) + self.words(words).sum(1)
        return self.head(pooled.float())


OFFSETS = torch.arange(0, 16, 2)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    users = torch.randint(0, 200, (16,), generator=generator)
    items = torch.randint(0, 300, (8, 3), generator=generator)
    return users, items, torch.randint(0, 150, (8, 2), generator=generator)


def replaced(model, optimizer, where=None):
    if where is None:
        return hr.replace_embeddings(model, optimizer=optimizer)
    small = {"cache": {"bytes": "10KiB", "pinned_rows": 7}}
    plan = hr.Plan.manual({"users": small | {"dram_rows": 5}, "items": small}, hr.embedding_tables(model))
    return hr.replace_embeddings(model, plan=plan, optimizer=optimizer, storage_dir=where)


def train(model, steps, has_tickets=False):
    losses = []
    for step in steps:
        users, items, words = batch(step)
        if has_tickets:
            modules = (model.users, model.items, model.words)
            offsets = (OFFSETS,), (), ()
            users, items, words = (
                m.prefetch(ids, *o) for m, ids, o in zip(modules, (users, items, words), offsets)
            )
        loss = model(users, items, words).square().mean()
        loss.backward()
        losses.append(loss.item())
    return losses


def arrays(model):
    return {
        f"{name}.{part}": array
        for name in ("users", "items", "words")
        for part, array in getattr(model, name).row_arrays().items()
    }


def assert_equal(one, other):
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert torch.equal(array, second[name]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_those_of_memory(tmp_path, optimizer, dtype):
    torch.manual_seed(0)
    memory = Model(dtype)
    ssd = copy.deepcopy(memory)
    replaced(memory, optimizer)
    with replaced(ssd, optimizer, tmp_path / "rows") as rows:
        assert_equal(memory, ssd)
        assert train(memory, range(10)) == train(ssd, range(10))
        assert train(memory, range(10, 30)) == train(ssd, range(10, 30), has_tickets=True)
        assert rows.step == 30
        assert ssd.users.storage_stats()["rows_fetched"] > 300
        assert_equal(memory, ssd)
        with torch.no_grad():
            assert torch.equal(memory(*batch(99)), ssd(*batch(99)))
            everything = torch.arange(300).view(100, 3)  # more rows than there are slots
            assert torch.equal(memory.items(everything), ssd.items(everything))
            assert torch.equal(memory.words(everything % 150), ssd.words(everything % 150))


def test_commit_and_reopen_goes_on_exactly(tmp_path):
    optimizer = hr.optim.Adam(lr=0.05)
    torch.manual_seed(0)
    memory = Model()
    ssd = copy.deepcopy(memory)
    replaced(memory, optimizer)
    train(memory, range(8))
    with replaced(ssd, optimizer, tmp_path / "rows") as rows:
        ssd.words(batch(0)[2]).sum().backward()  # one module may be ahead of the others
        memory.words(batch(0)[2]).sum().backward()
        train(ssd, range(3))
    with pytest.raises(ConfigError, match="closed"):
        ssd(*batch(0))
    torch.manual_seed(0)
    ssd = Model()
    memory = Model()
    memory.load_state_dict(ssd.state_dict())
    replaced(memory, optimizer)
    with replaced(ssd, optimizer, tmp_path / "rows") as rows:
        assert rows.step == 0, "nothing was committed"
        for model in (memory, ssd):
            model.words(batch(0)[2]).sum().backward()
            train(model, range(8))
        rows.commit("step-8")
        train(ssd, range(8, 11))
    head = copy.deepcopy(memory.head)
    torch.manual_seed(1)  # its weights are not looked at
    again = Model()
    with replaced(again, optimizer, tmp_path / "rows") as rows:
        again.head = head
        assert rows.step == 9 and again.users.step == 8
        assert_equal(memory, again)
        assert train(memory, range(8, 14)) == train(again, range(8, 14))
        assert_equal(memory, again)


def test_writes_to_one_module_keep_the_updates_of_the_others(tmp_path):
    optimizer = hr.optim.Adagrad(lr=0.1)
    torch.manual_seed(0)
    memory = Model()
    ssd = copy.deepcopy(memory)
    replaced(memory, optimizer)
    with replaced(ssd, optimizer, tmp_path / "rows"):
        for model in (memory, ssd):
            train(model, range(5))
            model.users.load_state_dict({"weight": torch.arange(1600.0).view(200, 8) / 1600})
            model.items(batch(5)[1]).sum().backward()
            train(model, range(6, 9))
        assert_equal(memory, ssd)
        state = {name: value.clone() for name, value in memory.state_dict().items()}
        train(ssd, range(3))
        ssd.load_state_dict(state)
        assert all(torch.equal(value, state[name]) for name, value in ssd.state_dict().items())


def test_errors_name_what_is_wrong(tmp_path):
    optimizer = hr.optim.Adagrad(lr=0.1)
    model = Model()
    with replaced(model, optimizer, tmp_path / "rows") as rows:
        with pytest.raises(
            hr.IdOutOfRange, match=r"sample 1, position 0: id 300 is outside table 'items' of 300"
        ):
            model.items(torch.tensor([[1], [300]]))
        with pytest.raises(hr.IdOutOfRange, match="outside table 'words' of 150"):
            model.words(torch.tensor([0, 150]))
        with pytest.raises(ConfigError, match="shares its storage_dir"):
            model.items._store.commit("a")
        with pytest.raises(ConfigError, match="of another module"):
            model.users(model.items.prefetch(torch.tensor([[1]])))
        with pytest.raises(ConfigError, match="open"):
            replaced(Model(), optimizer, tmp_path / "rows")
        rows.commit("a")
    with pytest.raises(ConfigError, match="optimizer"):
        replaced(Model(), hr.optim.SGD(lr=1.0), tmp_path / "rows")
    with pytest.raises(ConfigError, match="storage_dir"):
        hr.replace_embeddings(Model(), plan=hr.Plan.within(hr.embedding_tables(Model()), "16KiB", optimizer))
    with pytest.raises(ConfigError, match="in memory"):
        replaced(Model(), optimizer).commit("a")


def test_a_model_that_is_refused_lets_the_directory_go(tmp_path):
    optimizer = hr.optim.Adagrad(lr=0.1)
    with pytest.raises(ConfigError, match="fused optimizer"):
        hr.replace_embeddings(Model(), optimizer=None, storage_dir=tmp_path / "rows")
    with replaced(Model(), optimizer, tmp_path / "rows"):
        pass


def test_look_ahead_draws_early_and_hands_out_in_order():
    drawn = []

    def source():
        for i in range(6):
            drawn.append(i)
            yield i

    ahead = hr.look_ahead(source(), 2)
    assert not drawn
    assert [(item, len(drawn)) for item in ahead] == [(0, 3), (1, 4), (2, 5), (3, 6), (4, 6), (5, 6)]
    with pytest.raises(ConfigError, match="window=0"):
        hr.look_ahead([], 0)


def test_collections_of_torchrec_share_the_directory(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchrec = pytest.importorskip("torchrec", exc_type=ImportError)
    pooled = [
        torchrec.EmbeddingBagConfig(num_embeddings=n, embedding_dim=8, name=name, feature_names=features)
        for name, n, features in (("a", 150, ["x", "y"]), ("b", 90, ["z"]))
    ]

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.EmbeddingBag(120, 8, mode="sum")
            self.bags = torchrec.EmbeddingBagCollection(tables=pooled)
            self.rows = torchrec.EmbeddingCollection(
                tables=[
                    torchrec.EmbeddingConfig(
                        num_embeddings=70, embedding_dim=8, name="c", feature_names=["w"]
                    )
                ]
            )

        def forward(self, features, words):
            found = self.rows(words)["w"].values().sum() + self.bags(features).values().square().sum()
            return found + self.first(features.values()[:4].view(2, 2)).square().sum()

    def features(step, keys, high):
        ids = torch.randint(0, high, (len(keys) * 6,), generator=torch.Generator().manual_seed(step))
        return hr.KeyedJaggedTensor(keys, ids, lengths=torch.full((len(keys) * 3,), 2))

    def losses(model):
        found = []
        for step in range(12):
            loss = model(features(step, ["x", "y", "z"], 90), features(step, ["w"], 70))
            loss.backward()
            found.append(loss.item())
        return found

    optimizer = hr.optim.Adagrad(lr=0.1)
    torch.manual_seed(0)
    memory = Both()
    ssd = copy.deepcopy(memory)
    hr.replace_embeddings(memory, optimizer=optimizer)
    small = {"cache": {"bytes": "10KiB", "pinned_rows": 3}}
    plan = hr.Plan.manual({"first": small, "a": small, "c": small}, hr.embedding_tables(ssd))
    with hr.replace_embeddings(ssd, plan=plan, optimizer=optimizer, storage_dir=tmp_path / "rows") as rows:
        assert losses(memory) == losses(ssd)
        for one, other in ((memory.bags, ssd.bags), (memory.rows, ssd.rows), (memory.first, ssd.first)):
            assert all(torch.equal(a, other.row_arrays()[name]) for name, a in one.row_arrays().items())
        with pytest.raises(ConfigError, match="shares its storage_dir with others"):
            ssd.bags.commit("x")
        ssd.bags.write_rows("b", 5, {"weight": torch.ones(4, 8)})
        ssd.first(torch.tensor([[1, 2]])).sum().backward()
        assert torch.equal(ssd.bags.row_arrays()["b.weight"][5:9], torch.ones(4, 8))
        rows.commit("x")
        with pytest.raises(ConfigError, match=r"rows from 88 on .* are not rows of a table of 90"):
            ssd.bags.write_rows("b", 88, {"weight": torch.ones(4, 8)})
        with pytest.raises(ConfigError, match=r"no array 'mean'; it has weight, sum"):
            ssd.bags.write_rows("b", 0, {"mean": torch.ones(4, 8)})
        with pytest.raises(
            ConfigError, match=r"rows of sum are torch.float32 \[4\], expected torch.float32 \[8\]"
        ):
            ssd.bags.write_rows("b", 0, {"sum": torch.ones(4, 4)})
    with pytest.raises(ConfigError, match="several collections of the model have tables"):
        twice = Both()
        twice.more = torchrec.EmbeddingBagCollection(tables=pooled)
        hr.replace_embeddings(twice, optimizer=optimizer, storage_dir=tmp_path / "other")
