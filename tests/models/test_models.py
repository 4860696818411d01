"""Dense parts: published equations, shapes, initial values by seed, errors."""

from __future__ import annotations

import pytest
import torch

from hotrow.errors import ConfigError
from hotrow.jagged import KeyedTensor
from hotrow.models import DLRM, DCNv2Config, DLRMConfig, build_model
from hotrow.models.layers import DotInteraction, LowRankCross


def pooled(batch: int, dims: list[int], seed: int = 0) -> KeyedTensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, sum(dims), generator=generator, requires_grad=True)
    return KeyedTensor([f"f{i}" for i in range(len(dims))], dims, values)


@pytest.mark.parametrize("num_vectors", [2, 3, 7])
def test_dot_interaction_is_every_pair_once(num_vectors: int) -> None:
    x = torch.randn(5, num_vectors, 4, dtype=torch.double, requires_grad=True)
    found = DotInteraction(num_vectors)(x)
    expected = [(x[:, i] * x[:, j]).sum(1) for i in range(num_vectors) for j in range(i)]
    torch.testing.assert_close(found, torch.stack(expected, 1))
    assert torch.autograd.gradcheck(DotInteraction(num_vectors), x)


def test_low_rank_cross_is_the_papers_equation() -> None:
    cross = LowRankCross(6, 2, 3, torch.Generator().manual_seed(0)).double()
    x0 = torch.randn(4, 6, dtype=torch.double)
    x = x0
    for down, up in zip(cross.down, cross.up):
        x = x0 * ((x @ down.weight.T) @ up.weight.T + up.bias) + x
    torch.testing.assert_close(cross(x0), x)


MODELS = {
    "dot": DLRMConfig(bottom_mlp=(8, 4), top_mlp=(6,)),
    "both": DLRMConfig(bottom_mlp=(8, 4), interaction="both", top_mlp=(6,)),
    "cat": DLRMConfig(bottom_mlp=(8, 5), interaction="cat", top_mlp=()),
    "dcnv2": DCNv2Config(low_rank=2, mlp=(6,)),
    "dcnv2-parallel": DCNv2Config(low_rank=2, mlp=(6,), structure="parallel"),
}


@pytest.mark.parametrize("num_dense", [0, 3])
@pytest.mark.parametrize("name", MODELS)
def test_models_give_logits_and_gradients(name: str, num_dense: int) -> None:
    model = build_model(MODELS[name], num_dense=num_dense, embedding_dims=[4, 4, 4], num_labels=2, seed=3)
    embedded = pooled(5, [4, 4, 4])
    logits = model(torch.randn(5, num_dense), embedded)
    assert logits.shape == (5, 2)
    logits.sum().backward()
    assert embedded.values().grad is not None
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_are_a_function_of_the_seed(name: str) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed + 99)  # the global generator must not matter
        model = build_model(MODELS[name], num_dense=3, embedding_dims=[4, 4], seed=seed)
        return [p.detach() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1)))
    assert not all(torch.equal(a, b) for a, b in zip(weights(1), weights(2)))


def test_mixed_widths_work_with_cat_and_dcn_and_not_with_dot() -> None:
    embedded = pooled(5, [4, 2, 7])
    for config in (MODELS["cat"], MODELS["dcnv2"]):
        assert build_model(config, num_dense=0, embedding_dims=[4, 2, 7])(
            torch.empty(5, 0), embedded
        ).shape == (5, 1)
    with pytest.raises(ConfigError, match=r"equal widths.*2, 4, 7.*'cat'"):
        build_model(MODELS["dot"], num_dense=0, embedding_dims=[4, 2, 7])
    with pytest.raises(ConfigError, match="bottom MLP ends in 4.*embeddings have 8"):
        build_model(MODELS["dot"], num_dense=3, embedding_dims=[8, 8])


def test_nothing_to_look_at_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        DLRM(MODELS["cat"], num_dense=0, embedding_dims=[])
    with pytest.raises(ConfigError, match="needs two vectors"):
        DLRM(MODELS["dot"], num_dense=0, embedding_dims=[4])


@pytest.mark.parametrize("name", MODELS)
def test_autocast_gives_nearly_the_same_logits(name: str) -> None:
    model = build_model(MODELS[name], num_dense=3, embedding_dims=[4, 4, 4], seed=3)
    dense, embedded = torch.randn(64, 3), pooled(64, [4, 4, 4])
    exact = model(dense, embedded)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(dense, embedded)
    assert rounded.dtype == torch.float32
    rounded.sum().backward()
    torch.testing.assert_close(rounded, exact, atol=0.15, rtol=0.05)
    assert not torch.equal(rounded, exact)
