"""Which label a server gets: its id, for so many of them, and a common one for the others."""

from __future__ import annotations

from typing import Final

#: The label of the servers beyond the limit.
OTHER: Final = "other"

#: That of connections of which nobody knows the server, and of all servers if they aren't
#: told apart. To Prometheus it's the same as no label.
NONE: Final = ""


class Labels:
    """The labels of one pool's servers: few enough, whatever ids there are.

    :param per_server: whether servers are told apart.
    :param max_servers: how many ids have a label of their own at a time.
    """

    def __init__(self, per_server: bool, max_servers: int) -> None:
        self._per_server = per_server
        self._max_servers = max_servers
        self._by_id: dict[str, str] = {}

    def __len__(self) -> int:
        """Return how many servers have a label of their own."""
        return len(self._by_id)

    def of(self, id: str | None) -> str:
        """Return the label of a server. It keeps it until it's forgotten."""
        if id is None or not self._per_server:
            return NONE
        label = self._by_id.get(id)
        if label is None:
            label = as_label(id)
            if label in (NONE, OTHER):  # Ids are any text.
                return label
            if len(self._by_id) >= self._max_servers:
                return OTHER
            self._by_id[id] = label
        return label

    def ids(self) -> set[str]:
        """Return the ids that have a label of their own."""
        return set(self._by_id)

    def forget(self, id: str) -> str:
        """Forget a server that has a label of its own: another one may have one then.

        :returns: the label.
        """
        return self._by_id.pop(id)


def as_label(id: object) -> str:
    """Return any text as one that can be exported: a lone surrogate would end each scrape."""
    return str(id).encode("utf-8", "backslashreplace").decode("utf-8")
