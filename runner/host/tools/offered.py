"""The tools of the host, in the order in which agents are told of them."""

from __future__ import annotations

from runner.host.tools.tool import AnyTool


def offered() -> tuple[AnyTool, ...]:
    """Every tool there is; settings and roles decide who gets which."""
    return ()
