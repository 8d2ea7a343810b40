"""The way to a model, for sandboxes and for anybody with a key.

A request comes in by ``routes`` (HTTP) or ``relay`` (a sandbox's socket) and is carried out by
``service``: ``exchange`` and ``formats`` put it into the inner language and its answer back into
the client's; ``routing`` says who could answer, ``calls`` asks them in order, ``failure`` and
``cooldown`` judge what went wrong; ``rules`` and ``repair`` make it a request that Kimi takes;
``caching`` keeps system texts at the provider; ``usage``, ``prices`` and ``budgets`` say what it
cost and may cost.
"""
