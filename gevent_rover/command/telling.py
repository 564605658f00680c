"""The demo's pool: a slot pool that tells what becomes of its connections."""

from __future__ import annotations

from collections.abc import Callable

from gevent.socket import socket as Socket

from gevent_rover.models import Slot
from gevent_rover.pooling.pool import SlotPool
from gevent_rover.roving.rover import Rover


class TellingPool(SlotPool):
    """A pool that tells what it keeps, closes and loses; nobody leases from it.

    :param rover: where the connections come from.
    :param max_slots: how many connections to keep.
    :param tell: called with a server's id and what there is to tell of it; may block.
    """

    def __init__(self, rover: Rover, *, max_slots: int, tell: Callable[[str, str], object]) -> None:
        super().__init__(rover, max_slots=max_slots)
        self._tell = tell
        self._known: list[Slot] = []

    def held(self) -> list[Slot]:
        """Return the slots that are kept now, from the lowest to the highest."""
        return [slot for slot, _ in self.slots() if isinstance(slot, Slot)]

    def offer(self, slot: int, socket: Socket) -> bool:
        """Keep a connection or close it, as every pool does; then tell of it."""
        assert isinstance(slot, Slot)  # it comes from the rover
        # To tell may take long: first of all, see what happened.
        lost = self._gone()
        admissible = self.deficit > 0 or slot < max(self.held())
        kept = super().offer(slot, socket)
        given_up = self._gone()
        self._tell_lost(lost)
        if kept and given_up:
            (old,) = given_up
            done = f"kept, in exchange for slot {old} of {old.server_id}"
        elif kept:
            done = "kept"
        elif admissible:
            done = "lost, the server closed it"
        else:
            done = "closed, not lower than those kept"
        self._tell(slot.server_id, f"slot {slot}: {done}")
        return kept

    def tell_losses(self) -> None:
        """Tell which connections ended since the pool was last looked at."""
        self._tell_lost(self._gone())

    def _gone(self) -> list[Slot]:
        """Return the slots that are kept no more since this was last called."""
        before, self._known = self._known, self.held()
        # Slots of several servers may be equal: these are told apart as objects.
        still = set(map(id, self._known))
        return [slot for slot in before if id(slot) not in still]

    def _tell_lost(self, slots: list[Slot]) -> None:
        for slot in slots:
            self._tell(slot.server_id, f"slot {slot}: lost, the server closed it")
