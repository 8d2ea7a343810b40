"""State that survives: groups, messages, turns, events. ``Store`` owns every query."""

from runner.store.database import Place, place_of
from runner.store.event_log import KEPT_EVENTS_PER_GROUP
from runner.store.hosts import Elsewhere
from runner.store.queue import Accepted, Claim
from runner.store.store import Store

__all__ = [
    "KEPT_EVENTS_PER_GROUP",
    "Accepted",
    "Claim",
    "Elsewhere",
    "Place",
    "Store",
    "place_of",
]
