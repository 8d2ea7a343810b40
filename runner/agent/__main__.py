"""``python -m runner.agent``: an ACP agent on stdin and stdout.

Environment: ``HOME`` (config in ``.kimi/``), ``NANOKIMI_RUN_DIR`` (where the model's socket is),
``NANOKIMI_LOG_LEVEL`` (``debug`` shows tracebacks). Exit codes: 0 done, 1 failed, 2 bad config.
"""

from __future__ import annotations

import os
import sys

from runner.agent import process


def main() -> int:
    """Claim the protocol before anything else can print, then serve until the client leaves."""
    streams = process.claim_protocol()
    process.harden()

    import asyncio

    from runner.agent.app import serve

    return asyncio.new_event_loop().run_until_complete(serve(*streams))


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a tool's thread in a slow read must not hold up the end
