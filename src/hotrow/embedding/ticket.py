"""Tickets: batches that a collection was told of before they are looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotrow.embedding.lookup import Jagged
from hotrow.errors import ConfigError
from hotrow.storage import Lease

if TYPE_CHECKING:
    from hotrow.embedding.module import TableModule


class Ticket:
    """What ``prefetch`` returns and the module takes instead of the features. Dropping it gives its slots back.

    features: the batch, as it was given to ``prefetch``. Do not write to its tensors before the ticket is used.
    """

    def __init__(self, owner: TableModule, features: Any, jagged: Jagged, lease: Lease | None) -> None:
        self.features, self.jagged = features, jagged
        self._owner, self._lease = owner, lease

    def take_lease(self, user: TableModule) -> Lease | None:
        """The slots, the first time; a later use of the ticket claims slots of its own."""
        if self._owner is not user:
            raise ConfigError("this ticket is of another module; give it to the one whose prefetch() made it")
        lease, self._lease = self._lease, None
        return lease
