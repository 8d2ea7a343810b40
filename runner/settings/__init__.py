"""``data/config.toml``: what the operator says, checked once, then typed.

``schema`` and ``load`` are the host's half. ``container`` is the half that an agent reads inside
its sandbox (standard library only), and ``projection`` writes it. ``layout`` names the paths
below ``data/``.
"""
