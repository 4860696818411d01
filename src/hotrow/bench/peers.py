"""The peers and their settings. Every peer runs as its own documentation tells a user to run it on CPU.

* ``torch``: one ``nn.EmbeddingBag(mode="sum", include_last_offset=True)`` per table, then ``torch.cat`` into
  ``[B, sum of dims]``. This is the judged one: its output equals hotrow's and FBGEMM's.
* ``torch-parts``: the same without the ``cat``, a list of ``[B, dim]``; reported, not judged (its output is not equal).
* ``fbgemm``: fp32: ``SplitTableBatchedEmbeddingBagsCodegen`` on CPU (``EmbeddingLocation.HOST``), fp32 rows and
  outputs, ``EXACT_ROWWISE_ADAGRAD`` with the learning rate and eps of hotrow's optimizer, no stochastic rounding;
  int8: ``IntNBitTableBatchedEmbeddingBagsCodegen`` on CPU, ``SparseType.INT8`` rows quantised by FBGEMM, fp32
  outputs, its own id type (int32, which it accepts without a copy).
* ``fbgemm-dense``: ``DenseTableBatchedEmbeddingBagsCodegen`` on CPU; forward only.
* ``torch-sgd`` / ``torch-adagrad`` (steps): ``sparse=True`` bags, ``torch.optim.SGD`` / ``torch.optim.Adagrad``.

All get the same ids, the same rows and ``torch.get_num_threads()`` threads, and each allocates its output in the call.
"""

from __future__ import annotations

from dataclasses import dataclass

from hotrow.bench.cases import Case, Operation
from hotrow.core import DataType


@dataclass(frozen=True, kw_only=True)
class PeerSetting:
    """One peer in one operation. judged: it counts for ``best_peer``. tolerance: of its output, relative."""

    name: str
    operation: Operation
    data_type: DataType = DataType.FP32
    judged: bool = True
    tolerance: float = 1e-5


LEARNING_RATE = 0.01
EPS = 1e-8

SETTINGS: tuple[PeerSetting, ...] = (
    PeerSetting(name="torch", operation=Operation.FORWARD),
    PeerSetting(name="torch-parts", operation=Operation.FORWARD, judged=False),
    PeerSetting(name="fbgemm", operation=Operation.FORWARD),
    PeerSetting(name="fbgemm-dense", operation=Operation.FORWARD),
    # Of a million elements about nine round to the neighbouring code (1/127.5 of the largest value), and FBGEMM keeps
    # scale and bias in fp16 (0.001 of it).
    PeerSetting(name="fbgemm", operation=Operation.FORWARD, data_type=DataType.INT8, tolerance=1e-2),
    PeerSetting(name="fbgemm", operation=Operation.STEP, tolerance=1e-4),
    PeerSetting(name="torch-sgd", operation=Operation.STEP, judged=False),
    PeerSetting(name="torch-adagrad", operation=Operation.STEP, judged=False),
)


def settings_for(case: Case) -> list[PeerSetting]:
    """The peers that take part in a case."""
    return [s for s in SETTINGS if (s.operation, s.data_type) == (case.operation, case.data_type)]
