"""``import hotrow`` is quick and gives exactly the public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hotrow


def test_every_public_name_is_there():
    for name in hotrow.__all__:
        assert getattr(hotrow, name) is not None
    assert set(hotrow.__all__) <= set(dir(hotrow))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hotrow.nothing


def test_import_adds_little_to_torch():
    code = (
        "import torch, time\n"
        "start = time.process_time()\n"
        "import hotrow\n"
        "hotrow.EmbeddingBagConfig, hotrow.KeyedJaggedTensor, hotrow.optim\n"
        "print(time.process_time() - start)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 0.3
