"""Benchmarks: each compares the product with something bare in the same run, and says the budget.

``rig`` starts the parts, each in a process of its own; ``http`` is the lean client; ``finding`` is
what a measure gives back, ``report`` how it is shown. One file per measure: ``cold_turn`` (with
``cold_parts``), ``warm_turn``, ``memory``, ``agent_start``, ``accepts`` (with ``postgres``, its
server), ``groups``, ``churn``, ``relay``, ``gateway``. For the last, ``proxies`` starts what is
compared, ``upstream`` is the model behind it, ``load`` its callers. See ``docs/benchmarks.md``.
"""
