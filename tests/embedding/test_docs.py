"""The example in docs/embedding.md runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"


def test_the_first_example_runs():
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    names: dict = {}
    exec(code, names)
    assert names["pooled"]["viewed"].shape == (2, 16)
    assert names["pooled"].values().shape == (2, 32)
    assert names["collection"].step == 1
    assert isinstance(names["features"].values(), torch.Tensor)
