"""EmbeddingBagCollection and EmbeddingCollection: tables in memory or on SSD, trained in the backward pass."""

from hotrow.embedding.ahead import look_ahead
from hotrow.embedding.arenas import lay_out
from hotrow.embedding.bags import EmbeddingBagCollection
from hotrow.embedding.committed import CommittedRows
from hotrow.embedding.foreign import convert_config
from hotrow.embedding.module import STATE_DICT_LIMIT_BYTES
from hotrow.embedding.reordering import reorder_commit
from hotrow.embedding.replace import Replacement, Replacements, embedding_tables, replace_embeddings
from hotrow.embedding.sequences import EmbeddingCollection
from hotrow.embedding.ticket import Ticket

__all__ = [
    "STATE_DICT_LIMIT_BYTES",
    "CommittedRows",
    "EmbeddingBagCollection",
    "EmbeddingCollection",
    "Replacement",
    "Replacements",
    "Ticket",
    "convert_config",
    "embedding_tables",
    "lay_out",
    "look_ahead",
    "reorder_commit",
    "replace_embeddings",
]
