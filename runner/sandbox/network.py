"""The networks of sandboxes that an operator opened: bridges without a way to cloud metadata.

A plain bridge reaches the metadata service of a cloud machine, and through it the machine's own
credentials. Blocking that with packet filters needs rights on the engine's machine that we may not
have, so we block it by routing: every open sandbox also joins an internal bridge that owns the
whole link-local range. Inside, 169.254.0.0/16 is then "on this link", where nobody answers. The
bridge has no address on the machine (``inhibit_ipv4``), so the machine's own way to its metadata
service is untouched, and sandboxes cannot see each other on either bridge (``enable_icc``).
"""

from __future__ import annotations

from runner.errors import EngineError
from runner.sandbox.engine import Engine, RefusedError

# One range fits into one engine once, so all installs on an engine share this network.
SHIELD = "nanokimi-metadata-shield"
METADATA = "169.254.169.254"
_ICC = "com.docker.network.bridge.enable_icc"
_INHIBIT = "com.docker.network.bridge.inhibit_ipv4"


def network_of(install: str) -> str:
    return f"nanokimi-{install[:32]}"


async def ensure_open_network(engine: Engine, install: str) -> str:
    """Make both networks unless they are there; returns the name of the one that leads out.

    Raises:
        EngineError: the engine cannot make them. Open sandboxes are refused then: one without the
            shield would reach the machine's credentials.
    """
    name = network_of(install)
    try:
        await engine.ensure_network(name, {_ICC: "false"})
        await engine.ensure_network(
            SHIELD,
            {_ICC: "false", _INHIBIT: "true"},
            internal=True,
            ipam={
                "Driver": "default",
                "Config": [
                    {
                        "Subnet": "169.254.0.0/16",
                        "IPRange": "169.254.64.0/18",
                        "Gateway": "169.254.64.1",
                        "AuxiliaryAddresses": {"metadata": METADATA},
                    }
                ],
            },
        )
    except (EngineError, RefusedError) as e:
        raise EngineError(
            f"no network for an open sandbox: {e}",
            hint='set network = "isolated" for this group, or use an engine with bridge networks',
            code="network_unavailable",
        ) from None
    return name


async def join_shield(engine: Engine, ref: str) -> None:
    """Close the link-local range for a created container, before it starts."""
    try:
        await engine.join_network(ref, SHIELD)
    except RefusedError as e:
        raise EngineError(f"metadata addresses could not be blocked: {e}") from None
