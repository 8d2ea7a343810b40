"""State that survives: groups, messages, turns, events. ``Store`` owns every query."""

from runner.store.store import KEPT_EVENTS_PER_GROUP, Accepted, Claim, Store

__all__ = ["KEPT_EVENTS_PER_GROUP", "Accepted", "Claim", "Store"]
