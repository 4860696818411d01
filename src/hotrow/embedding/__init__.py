"""EmbeddingBagCollection and EmbeddingCollection: tables in memory, trained in the backward pass."""

from hotrow.embedding.bags import EmbeddingBagCollection
from hotrow.embedding.module import STATE_DICT_LIMIT_BYTES
from hotrow.embedding.sequences import EmbeddingCollection

__all__ = ["STATE_DICT_LIMIT_BYTES", "EmbeddingBagCollection", "EmbeddingCollection"]
