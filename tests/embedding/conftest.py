"""Torch warns about sparse tensors unless one says whether they are to be checked: here they are."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def check_sparse_tensors():
    with torch.sparse.check_sparse_tensor_invariants():
        yield
