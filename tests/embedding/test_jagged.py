"""KeyedJaggedTensor, JaggedTensor, KeyedTensor, Batch on their own; agreement with TorchRec is in tests/interop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotrow import Batch, DataError, JaggedTensor, KeyedJaggedTensor, KeyedTensor
from hotrow.jagged import group_by_key, lengths_to_offsets

BAGS = st.lists(
    st.lists(st.lists(st.integers(0, 99), max_size=3), min_size=2, max_size=2), min_size=1, max_size=4
)


def from_bags(bags):
    """``bags[feature][sample]`` is a list of ids."""
    lengths = torch.tensor([len(bag) for feature in bags for bag in feature], dtype=torch.int64)
    values = torch.tensor([i for feature in bags for bag in feature for i in bag], dtype=torch.int64)
    weights = values.float() / 7
    return KeyedJaggedTensor([f"f{i}" for i in range(len(bags))], values, weights, lengths=lengths)


def to_bags(features):
    return [[t.tolist() for t in features[key].to_dense()] for key in features.keys()]  # noqa: SIM118


@given(BAGS, st.randoms())
def test_select_split_and_concat_keep_every_bag(bags, random):
    features = from_bags(bags)
    features.check()
    assert to_bags(features) == bags
    order = list(range(len(bags)))
    random.shuffle(order)
    permuted = features.permute(order)
    permuted.check()
    assert to_bags(permuted) == [bags[i] for i in order]
    assert torch.equal(permuted.weights(), permuted.values().float() / 7)
    cut = random.randint(0, len(bags))
    parts = features.split([cut, len(bags) - cut])
    assert [key for part in parts for key in part] == features.keys()
    assert parts[0].values().data_ptr() == features.values().data_ptr() or not parts[0].values().numel()
    assert to_bags(KeyedJaggedTensor.concat(parts)) == bags
    assert to_bags(KeyedJaggedTensor.from_jt_dict(features.to_dict())) == bags
    assert features.length_per_key() == [sum(map(len, feature)) for feature in bags]
    assert features.offset_per_key()[-1] == features.values().numel()


def test_lengths_and_offsets_are_made_when_asked_for():
    features = KeyedJaggedTensor.from_offsets_sync(["a", "b"], torch.arange(3), torch.tensor([0, 1, 1, 2, 3]))
    assert features.lengths_or_none() is None and features.offsets_or_none() is not None
    assert features.lengths().tolist() == [1, 0, 1, 1] and features.stride() == 2
    other = KeyedJaggedTensor.from_lengths_sync(["a", "b"], torch.arange(3), features.lengths().int())
    assert other.offsets_or_none() is None
    assert other.offsets().tolist() == [0, 1, 1, 2, 3] and other.offsets().dtype == torch.int32
    assert other.index_per_key() == {"a": 0, "b": 1} and "a" in other and "c" not in other
    with pytest.raises(KeyError, match="'c' is not one of"):
        other["c"]


def test_jagged_tensor():
    jagged = JaggedTensor(torch.tensor([1.0, 2.0, 3.0]), lengths=torch.tensor([2, 0, 1]))
    assert jagged.offsets().tolist() == [0, 2, 2, 3]
    assert jagged.to_padded_dense(padding_value=-1).tolist() == [[1, 2], [-1, -1], [3, -1]]
    assert jagged.to_padded_dense(1).tolist() == [[1], [0], [3]]
    again = JaggedTensor.from_dense(jagged.to_dense())
    assert torch.equal(again.values(), jagged.values()) and again.lengths().tolist() == [2, 0, 1]
    assert jagged.to_dense_weights() is None and jagged.weights_or_none() is None
    with pytest.raises(DataError, match="no weights"):
        jagged.weights()
    with pytest.raises(DataError, match="sample 1: length -1"):
        JaggedTensor(torch.zeros(1), lengths=torch.tensor([1, -1, 1])).check()
    with pytest.raises(DataError, match="sum to 3, there are 1 values"):
        JaggedTensor(torch.zeros(1), lengths=torch.tensor([3])).check()


def test_keyed_tensor():
    pooled = KeyedTensor.from_tensor_list(["a", "b"], [torch.ones(2, 1), torch.zeros(2, 3)])
    assert pooled.length_per_key() == [1, 3] and pooled.offset_per_key() == [0, 1, 4]
    assert pooled["b"].shape == (2, 3) and torch.equal(pooled.to_dict()["a"], torch.ones(2, 1))
    again = group_by_key(pooled.to_dict())
    assert again.keys() == ["a", "b"] and torch.equal(again.values(), pooled.values())
    (both,) = KeyedTensor.regroup([pooled], [["b", "a", "b"]])
    assert both.shape == (2, 7)
    with pytest.raises(KeyError, match="'c'"):
        KeyedTensor.regroup([pooled], [["c"]])
    with pytest.raises(KeyError, match="'c' is not one of"):
        pooled["c"]
    with pytest.raises(DataError, match="must add up to dimension 1"):
        KeyedTensor(["a"], [2], torch.zeros(2, 3))


def test_moving_keeps_tensors_that_are_there():
    features = from_bags([[[1], [2]]])
    batch = Batch(dense=torch.zeros(2, 1), sparse=features, labels=torch.zeros(2, 1))
    moved = batch.to("cpu")
    assert moved.num_samples == 2 and moved.weights is None
    assert moved.sparse.values() is features.values() and moved.sparse.keys() == ["f0"]
    away = batch.to("meta")
    assert away.dense.device.type == away.sparse.lengths().device.type == "meta"
    assert KeyedTensor(["a"], [1], torch.zeros(2, 1)).to("meta").device().type == "meta"


def test_what_they_say_of_themselves():
    features = from_bags([[[1, 2], []], [[3], [4]]])
    assert repr(features) == "KeyedJaggedTensor({'f0': [[1, 2], []], 'f1': [[3], [4]]})"
    assert repr(features["f1"]) == "JaggedTensor([[3], [4]])"
    assert repr(KeyedTensor(["a"], [1], torch.zeros(2, 1))) == "KeyedTensor([2, 1], {'a': 1})"


def test_empty():
    assert KeyedJaggedTensor.empty(is_weighted=True).weights().shape == (0,)
    nothing = KeyedJaggedTensor.from_jt_dict({})
    assert nothing.keys() == [] and nothing.length_per_key() == [] and nothing.stride() == 0
    nothing.check()


def test_lengths_on_meta_become_offsets_without_being_read() -> None:
    offsets = lengths_to_offsets(torch.empty(3, dtype=torch.int32, device="meta"))
    assert offsets.shape == (4,) and offsets.dtype is torch.int32


def test_lengths_whose_sum_needs_64_bits_get_64_bit_offsets() -> None:
    lengths = torch.tensor([2**30, 2**30, 2**30], dtype=torch.int32)
    assert lengths_to_offsets(lengths).tolist() == [0, 2**30, 2**31, 3 * 2**30]
    assert lengths_to_offsets(lengths[:1]).dtype is torch.int32
