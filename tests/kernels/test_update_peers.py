"""The updates beside torch's own optimizers and FBGEMM's fused ones.

Tolerances: the peers sum a row's gradients in another order and round in other places, so rows and state agree to a
few units in the last place of fp32 (relative 1e-5, absolute 1e-6 for values of the order of 1), not in bits.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from update_cases import copy_group, make_bags, make_group

from hotrow import kernels, optim
from hotrow.core import PoolingType

LR, STEPS = 0.05, 4
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def torch_optimizer(optimizer: optim.Optimizer, parameters, state) -> torch.optim.Optimizer:
    if isinstance(optimizer, optim.SGD):
        return torch.optim.SGD(parameters, lr=LR)
    if isinstance(optimizer, optim.Adagrad):
        made = torch.optim.Adagrad(parameters, lr=LR, eps=optimizer.eps)
        for parameter, start in zip(parameters, state):
            made.state[parameter]["sum"] = start["sum"].clone()
        return made
    assert isinstance(optimizer, optim.Adam)
    made = torch.optim.SparseAdam(
        parameters, lr=LR, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps
    )
    for parameter in parameters:
        zeros = torch.zeros_like(parameter)
        made.state[parameter] = {"step": 0, "exp_avg": zeros.clone(), "exp_avg_sq": zeros}
    return made


@pytest.mark.filterwarnings("ignore:.*(sparse|Sparse).*")
@pytest.mark.parametrize("optimizer", [optim.SGD(), optim.Adagrad(), optim.Adam()], ids=lambda o: o.name)
@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN])
@pytest.mark.parametrize("dim", [16, 37])
def test_as_torch_on_embedding_bags(optimizer, pooling, dim):
    group = make_group((dim, dim), optimizer=optimizer, pooling=pooling)
    if isinstance(optimizer, optim.Adam):
        for array in (array for state in group.state for array in state.values()):
            array.zero_()
    mode = pooling.value.lower()
    modules = [nn.EmbeddingBag(40, dim, mode=mode, sparse=True, _weight=rows.clone()) for rows in group.rows]
    theirs = torch_optimizer(optimizer, [module.weight for module in modules], group.state)
    for step in range(1, STEPS + 1):
        bags = make_bags(group, 20, 6, seed=step)
        kernels.fused_update(group, *bags.lookup(), bags.grad, optimizer, lr=LR, step=step, seed=0)
        theirs.zero_grad()
        for t, module in enumerate(modules):
            bounds = bags.offsets[t * 20 : (t + 1) * 20 + 1]
            values = bags.values[bounds[0] : bounds[-1]]
            module(values, bounds[:-1] - bounds[0]).backward(bags.grad[:, t * dim : (t + 1) * dim])
        theirs.step()
    for rows, module in zip(group.rows, modules):
        torch.testing.assert_close(rows, module.weight.detach(), **CLOSE)
    if isinstance(optimizer, optim.Adagrad):
        for state, module in zip(group.state, modules):
            torch.testing.assert_close(state["sum"], theirs.state[module.weight]["sum"], **CLOSE)


def test_weighted_bags_as_torch():
    optimizer = optim.SGD()
    group = make_group((16,), optimizer=optimizer)
    module = nn.EmbeddingBag(40, 16, mode="sum", _weight=group.rows[0].clone())
    bags = make_bags(group, 20, 6, weighted=True)
    bags.weights.requires_grad_()
    module(bags.values, bags.offsets[:-1], per_sample_weights=bags.weights).backward(bags.grad)
    found = kernels.weights_grad(group, bags.values, bags.offsets, bags.grad)
    torch.testing.assert_close(found, bags.weights.grad, **CLOSE)
    kernels.fused_update(
        group, bags.values, bags.offsets, bags.weights.detach(), bags.grad, optimizer, lr=LR, step=1, seed=0
    )
    torch.testing.assert_close(group.rows[0], module.weight.detach() - LR * module.weight.grad, **CLOSE)


FBGEMM_RULES = {
    "sgd": ("EXACT_SGD", optim.SGD()),
    "rowwise_adagrad": ("EXACT_ROWWISE_ADAGRAD", optim.RowWiseAdagrad(eps=1e-4)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", FBGEMM_RULES)
@pytest.mark.parametrize("weighted", [False, True])
def test_as_fbgemm(rule, weighted):
    pytest.importorskip("fbgemm_gpu", reason="fbgemm-gpu-cpu is not installed (extra `bench`)")
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    name, optimizer = FBGEMM_RULES[rule]
    # The group's own start, so that the sum of squares starts at 0 as FBGEMM's does. Its mean is over the dim too.
    group = make_group((16, 64), optimizer=optimizer)
    for state in group.state:
        for array in state.values():
            array.zero_()
    theirs = SplitTableBatchedEmbeddingBagsCodegen(
        [(40, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for dim in (16, 64)],
        optimizer=getattr(EmbOptimType, name),
        learning_rate=LR,
        eps=getattr(optimizer, "eps", 1e-8),
    )
    for weights, rows in zip(theirs.split_embedding_weights(), group.rows):
        weights.copy_(rows)
    start = copy_group(group)
    for step in range(1, STEPS + 1):
        bags = make_bags(group, 20, 6, weighted=weighted, seed=step)
        theirs(bags.values, bags.offsets, per_sample_weights=bags.weights).backward(bags.grad)
        kernels.fused_update(group, *bags.lookup(), bags.grad, optimizer, lr=LR, step=step, seed=0)
    for weights, rows, before in zip(theirs.split_embedding_weights(), group.rows, start.rows):
        torch.testing.assert_close(rows, weights, **CLOSE)
        assert (rows - before).abs().max() > 1e-2
    if rule == "rowwise_adagrad":
        for (moment,), state in zip(theirs.split_optimizer_states(), group.state):
            torch.testing.assert_close(state["sum"], moment, **CLOSE)
