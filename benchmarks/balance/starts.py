"""How the clients of the model come by their connections."""

from __future__ import annotations

from benchmarks.balance.fleets import Fleet, SimulatedClient
from benchmarks.balance.parameters import Start


def settle(fleet: Fleet, start: Start) -> None:
    """Connect all clients, and rove until no attempt has brought anything for long."""
    if start != "together":
        for client in fleet.clients:
            _fill(fleet, client)
    if start == "restarted":
        for _ in range(3):
            for client in fleet.random.sample(fleet.clients, len(fleet.clients)):
                _restart(fleet, client)
    idle = 0
    while idle < 20:
        idle += 1
        for client in fleet.clients:
            before = client.closed, client.deficit
            fleet.tick(client)
            if (client.closed, client.deficit) != before:
                idle = 0


def _fill(fleet: Fleet, client: SimulatedClient) -> None:
    while client.deficit:
        fleet.tick(client)


def _restart(fleet: Fleet, client: SimulatedClient) -> None:
    """Let a client go, the others rove for two intervals, and it come back."""
    for entry in client.ranking:
        fleet.close(client, entry)
    for _ in range(2):
        for other in fleet.clients:
            if other is not client:
                fleet.tick(other)
    _fill(fleet, client)
