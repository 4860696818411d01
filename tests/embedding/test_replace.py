"""replace_embeddings: the replaced model computes, trains and saves as the model it was."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from hotrow import (
    ConfigError,
    DataError,
    EmbeddingBagConfig,
    IdOutOfRange,
    Plan,
    Tier,
    optim,
    replace_embeddings,
)
from hotrow.plans import Segment, TablePlan

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


class Model(nn.Module):
    """Bags of both modes and both offset conventions, with and without padding, and a sequence table."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.bags = nn.ModuleList(
            [
                nn.EmbeddingBag(20, 4, mode="sum"),
                nn.EmbeddingBag(20, 4, mode="mean", include_last_offset=True),
                nn.EmbeddingBag(20, 4, mode="mean", padding_idx=3),
                nn.EmbeddingBag(20, 4, mode="sum", padding_idx=0, sparse=True),
            ]
        )
        self.words = nn.Embedding(15, 4, padding_idx=2)
        self.plain = nn.Embedding(15, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, batch):
        ids, offsets, weights, words = batch
        pooled = self.bags[0](ids, offsets, weights)
        pooled = pooled + self.bags[1](ids, torch.cat([offsets, torch.tensor([ids.shape[0]])]))
        pooled = pooled + self.bags[2](ids, offsets)
        pooled = pooled + self.bags[3](ids, offsets, per_sample_weights=weights)
        pooled = pooled + self.words(words).sum(1) + self.plain(words).mean(1)
        return self.head(pooled)


def batch(seed, num_samples=6):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 5, (num_samples,), generator=generator)
    ids = torch.randint(0, 20, (int(lengths.sum()),), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]])
    weights = torch.rand(ids.shape[0], generator=generator)
    return ids, offsets, weights, torch.randint(0, 15, (num_samples, 3), generator=generator)


@pytest.mark.parametrize("optimizer", [optim.SGD(lr=0.02), optim.Adagrad(lr=0.02), None])
def test_a_replaced_model_trains_as_before(optimizer):
    before = Model()
    after = copy.deepcopy(before)
    replaced = replace_embeddings(after, optimizer=optimizer)
    assert [r.paths for r in replaced] == [(f"bags.{i}",) for i in range(4)] + [("words",), ("plain",)]
    assert list(after.state_dict()) == list(before.state_dict())
    make = torch.optim.Adagrad if isinstance(optimizer, optim.Adagrad) else torch.optim.SGD
    optimizers = [make(model.parameters(), lr=0.02) for model in (before, after)]
    for seed in range(5):
        outputs = []
        for model, dense in zip((before, after), optimizers):
            dense.zero_grad()
            weights = batch(seed)[2].requires_grad_()
            ids, offsets, _, words = batch(seed)
            output = model((ids, offsets, weights, words))
            output.square().sum().backward()
            dense.step()
            outputs += [output.detach(), weights.grad]
        torch.testing.assert_close(outputs[0], outputs[2], **CLOSE)
        torch.testing.assert_close(outputs[1], outputs[3], **CLOSE)
    for name, found in after.state_dict().items():
        torch.testing.assert_close(found, before.state_dict()[name], **CLOSE)
    for name in ("bags.2", "words"):
        padding = after.get_submodule(name).padding_idx
        assert torch.equal(
            after.state_dict()[f"{name}.weight"][padding], Model().state_dict()[f"{name}.weight"][padding]
        )


def test_bag_calls_match_torch_in_every_shape():
    torch.manual_seed(0)
    for mode in ("sum", "mean"):
        model = nn.ModuleDict({"e": nn.EmbeddingBag(9, 3, mode=mode)})
        reference = copy.deepcopy(model)["e"]
        replace_embeddings(model)
        bag = model["e"]
        for arguments in (
            (torch.randint(0, 9, (4, 3)),),
            (torch.randint(0, 9, (5,)), torch.tensor([0, 2, 2])),
            (torch.randint(0, 9, (5,), dtype=torch.int32), torch.tensor([0, 2, 2], dtype=torch.int32)),
        ):
            torch.testing.assert_close(bag(*arguments), reference(*arguments))
        two = torch.randint(0, 9, (4, 3))
        if mode == "sum":
            weights = torch.rand(4, 3)
            torch.testing.assert_close(
                bag(two, per_sample_weights=weights), reference(two, per_sample_weights=weights)
            )
        else:
            with pytest.raises(ConfigError, match="mode 'sum', this is 'mean'"):
                bag(two, per_sample_weights=torch.rand(4, 3))
        assert (bag.num_embeddings, bag.embedding_dim, bag.mode) == (9, 3, mode)
        assert torch.equal(bag.weight, reference.weight)


def test_embedding_takes_ids_of_any_shape():
    model = nn.ModuleDict({"e": nn.Embedding(9, 3, padding_idx=1)})
    reference = copy.deepcopy(model)["e"]
    replace_embeddings(model)
    for ids in (
        torch.tensor(4),
        torch.tensor([1, 1]),
        torch.randint(0, 9, (2, 3, 4)),
        torch.empty(0, 2).long(),
    ):
        found, expected = model["e"](ids), reference(ids)
        assert found.shape == expected.shape and torch.equal(found, expected)


def test_bad_calls():
    model = nn.ModuleDict(
        {
            "e": nn.EmbeddingBag(9, 3, mode="sum", padding_idx=0),
            "w": nn.Embedding(9, 3),
            "p": nn.EmbeddingBag(9, 3),
        }
    )
    replace_embeddings(model)
    one, two = torch.tensor([1, 2, 3]), torch.tensor([[1, 2, 3]])
    for call, message in (
        (lambda: model["e"](one), "need offsets"),
        (lambda: model["e"](two, torch.tensor([0])), "leave out"),
        (lambda: model["e"](one.float(), torch.tensor([0])), "float32"),
        (lambda: model["e"](one, torch.tensor([1])), "must start at 0"),
        (lambda: model["p"](one, torch.tensor([1])), "must begin at 0"),
        (lambda: model["p"](one, torch.tensor([0, 5])), "add up|not fall"),
        (lambda: model["e"](one, torch.tensor([0, 5])), "length -2 is negative"),
        (lambda: model["e"](one, torch.tensor([0]), torch.rand(2)), "one weight per id"),
        (lambda: model["w"](one.float()), "float32"),
    ):
        with pytest.raises(DataError, match=message):
            call()
    for name, arguments in (("e", (torch.tensor([[1, 9]]),)), ("w", (torch.tensor([-1]),))):
        with pytest.raises(IdOutOfRange, match=f"'{name}'.*9 rows"):
            model[name](*arguments)


def test_shared_modules_stay_shared():
    shared = nn.Embedding(5, 2)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": nn.Embedding(5, 2)})
    replaced = replace_embeddings(model)
    assert replaced[0].paths == ("a", "b.0") and replaced[0].tables == ("a",)
    assert replaced[0].was == "torch.nn.modules.sparse.Embedding"
    assert model["a"] is model["b"][0] is replaced[0].module
    assert model["c"] is not model["a"]


def test_frozen_tables_stay_frozen():
    for optimizer in (optim.SGD(lr=0.1), None):
        model = nn.ModuleDict({"e": nn.Embedding.from_pretrained(torch.rand(5, 2)), "f": nn.Linear(2, 1)})
        before = model["e"].weight.detach().clone()
        replace_embeddings(model, optimizer=optimizer)
        model = copy.deepcopy(model)
        model["f"](model["e"](torch.tensor([1, 2]))).sum().backward()
        assert torch.equal(model["e"].weight, before) and model["e"].step == 0
        assert model["e"].weight.grad is None


def test_bf16_modules_keep_their_dtype():
    model = nn.ModuleDict({"e": nn.EmbeddingBag(5, 2, mode="sum", dtype=torch.bfloat16)})
    reference = copy.deepcopy(model)["e"]
    replace_embeddings(model, optimizer=optim.SGD(lr=0.1))
    ids = torch.tensor([[1, 2]])
    assert model["e"](ids).dtype == torch.bfloat16
    torch.testing.assert_close(model["e"](ids), reference(ids))
    model["e"](ids).sum().backward()
    assert model["e"].step == 1


class OwnForward(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 2


class SameForward(nn.Embedding):
    pass


def hooked():
    module = nn.Embedding(2, 2)
    module.register_forward_hook(lambda *_: None)
    return module


def tied():
    model = nn.ModuleDict({"e": nn.Embedding(4, 2), "out": nn.Linear(2, 4)})
    model["out"].weight = model["e"].weight
    return model


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: nn.Embedding(2, 2, max_norm=1.0), "x.e: max_norm=1.0"),
        (lambda: nn.EmbeddingBag(2, 2, max_norm=1.0), "x.e: max_norm=1.0"),
        (lambda: nn.Embedding(2, 2, scale_grad_by_freq=True), "x.e: scale_grad_by_freq"),
        (lambda: nn.EmbeddingBag(2, 2, mode="max"), "x.e: mode 'max'"),
        (lambda: nn.Embedding(2, 2, dtype=torch.float16), "x.e: rows are torch.float16"),
        (lambda: nn.Embedding(2, 2, device="meta"), "x.e: rows are on meta"),
        (lambda: OwnForward(2, 2), "x.e: OwnForward has a forward of its own"),
        (hooked, "x.e: it has hooks"),
    ],
)
def test_what_has_no_counterpart_is_refused_and_nothing_changes(module, message):
    model = nn.ModuleDict({"x": nn.ModuleDict({"a": nn.Embedding(2, 2), "e": module()})})
    with pytest.raises(ConfigError, match=message) as caught:
        replace_embeddings(model)
    assert "\n" not in str(caught.value)
    assert type(model["x"]["a"]) is nn.Embedding


def test_other_refusals():
    with pytest.raises(ConfigError, match=r"'e': its weight is tied .e.weight, out.weight."):
        replace_embeddings(tied())
    with pytest.raises(ConfigError, match="Linear has no nn.EmbeddingBag"):
        replace_embeddings(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="the model itself is a Embedding"):
        replace_embeddings(nn.Embedding(1, 1))
    assert len(replace_embeddings(nn.ModuleDict({"e": SameForward(2, 2)}))) == 1


def test_plans_name_tables_by_path():
    model = Model()
    tables = [
        EmbeddingBagConfig(m.num_embeddings, 4, n)
        for n, m in model.named_modules()
        if hasattr(m, "padding_idx")
    ]
    plan = Plan.in_memory(tables)
    ssd = TablePlan(num_rows=15, embedding_dim=4, segments=(Segment(begin=0, end=15, tier=Tier.HBM),))
    with pytest.raises(ConfigError, match="table 'plain'.*tier 'hbm'"):
        replace_embeddings(model, Plan(tables={**plan.tables, "plain": ssd}))
    with pytest.raises(ConfigError, match=r"lacks \['plain'\]"):
        replace_embeddings(model, Plan(tables={k: v for k, v in plan.tables.items() if k != "plain"}))
    assert type(model.plain) is nn.Embedding
    assert len(replace_embeddings(model, plan)) == 6


def test_training_mode_and_state_dict_of_the_original_load():
    model, original = Model().eval(), Model()
    replace_embeddings(model)
    assert not model.bags[0].training
    with torch.no_grad():
        original.words.weight.add_(1)
    model.load_state_dict(original.state_dict())
    assert torch.equal(model.words.weight, original.words.weight)
    with pytest.raises(RuntimeError, match="table 'plain'"):
        model.load_state_dict({**original.state_dict(), "plain.weight": torch.zeros(1, 4)})
    original.load_state_dict(model.state_dict())


def test_a_late_refusal_changes_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torchrec and its own imports say of themselves
        modules = pytest.importorskip("torchrec.modules", exc_type=ImportError)
    tables = [
        modules.embedding_configs.EmbeddingBagConfig(4, 4, name=n, feature_names=[n]) for n in ("p", "q")
    ]
    collection = modules.embedding_modules.EmbeddingBagCollection(tables=tables)
    collection.embedding_bags["p"].weight.requires_grad_(False)
    model = nn.ModuleDict({"a": nn.Embedding(3, 2), "z": collection})
    with pytest.raises(ConfigError, match=r"z: tables \['p'\] are frozen and the others are not"):
        replace_embeddings(model)
    assert type(model["a"]) is nn.Embedding and model["z"] is collection


class TiedByHand(nn.Module):
    """The embedding's weight is also the output's, through a function."""

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(6, 4)

    def forward(self, ids):
        return nn.functional.linear(self.e(ids), self.e.weight)


def test_a_gradient_that_would_be_lost_is_an_error():
    torch.manual_seed(0)
    before, ids = TiedByHand(), torch.tensor([1, 2])
    fused, sparse = copy.deepcopy(before), copy.deepcopy(before)
    replace_embeddings(fused, optimizer=optim.SGD(lr=0.1))
    rows = fused.state_dict()["e.weight"].clone()
    with pytest.raises(
        ConfigError, match=r"table 'e': its weight is used outside its lookup .*optimizer=None"
    ):
        fused(ids).sum().backward()
    assert torch.equal(fused.state_dict()["e.weight"], rows) and fused.e.step == 0
    with torch.no_grad():
        torch.testing.assert_close(fused(ids), before(ids))
    nn.functional.linear(fused.e(ids), fused.e.weight.detach()).sum().backward()
    assert fused.e.step == 1
    fused.e.freeze()
    assert not fused(ids).requires_grad
    replace_embeddings(sparse, optimizer=None)
    for model in (before, sparse):
        model(ids).sum().backward()
    torch.testing.assert_close(sparse.e.weight.grad.to_dense(), before.e.weight.grad)


def test_weight_is_the_rows_themselves():
    model = nn.ModuleDict({"e": nn.Embedding(4, 2)})
    replace_embeddings(model)
    with torch.no_grad():
        model["e"].weight[2] = 7
    nn.init.constant_(model["e"].weight, 5)
    assert model["e"](torch.tensor([2])).tolist() == [[5, 5]]
    assert model["e"].weight.data_ptr() == model["e"].row_arrays()["e.weight"].data_ptr()
    model["e"].close()
    with pytest.raises(AttributeError, match="weight"):
        model["e"].weight  # noqa: B018


@pytest.mark.parametrize("optimizer", [optim.SGD(lr=0.1), None])
def test_an_id_outside_is_told_where_it_stands_among_padding(optimizer):
    model = nn.ModuleDict({"e": nn.EmbeddingBag(9, 3, padding_idx=0), "w": nn.Embedding(9, 3, padding_idx=0)})
    replace_embeddings(model, optimizer=optimizer)
    ids = torch.tensor([[0, 0, 1], [0, 9, 2]])
    with pytest.raises(IdOutOfRange, match=r"sample 1, position 1: id 9 .*9 rows"):
        model["e"](ids)
    with pytest.raises(IdOutOfRange, match=r"sample 1, position 1: id 9 .*9 rows"):
        model["e"](ids.flatten(), torch.tensor([0, 3]))
    with pytest.raises(IdOutOfRange, match=r"lookup 4: id 9 .*9 rows"):
        model["w"](ids)
