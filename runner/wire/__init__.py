"""The wire between host and agent: ACP v1, one JSON-RPC object a line, over any byte streams.

``lines`` turns bytes into lines, ``rpc`` lines into frames (both without I/O), ``acp`` gives the
frames types, ``peer`` runs them over a pair of byte streams. ``sse`` is another wire: the event
streams of model providers, and of the gateway.
"""
