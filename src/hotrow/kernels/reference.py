"""The oracle of every operation, in plain PyTorch and numpy: what the kernels must compute, without their speed."""

from hotrow.kernels.reference_lookup import dequantize_rows, gather, pooled_lookup, quantize_rows, read_rows
from hotrow.kernels.reference_update import fused_update, fused_update_unpooled, initialize_rows, weights_grad

__all__ = [
    "dequantize_rows",
    "fused_update",
    "fused_update_unpooled",
    "gather",
    "initialize_rows",
    "pooled_lookup",
    "quantize_rows",
    "read_rows",
    "weights_grad",
]
