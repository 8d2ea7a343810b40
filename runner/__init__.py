"""nanokimi: every chat group gets its own AI agent in its own container.

Where things live, from the top down (imports only ever point down)::

    cli        one file per noun: init, login, chat, serve, groups ...
    demo       the bundled demo provider, and the walk through the product that `make demo` shows
    api        HTTP: messages in, events out
    host       accepts, decides, runs: intake, dispatcher, pool, session, deliverer, tools
    channels   the ways to tell a chat something: webhooks
    gateway    the way to a model, for sandboxes and for other clients
    sandbox    Docker containers or processes behind one Spawner
    store      every query, on SQLite or PostgreSQL
    oauth      login, token store, the one refresher
    settings   config.toml in, typed settings out
    wire       ACP: bytes, lines, frames, peers
    schedule   when a task is due
    model      the nouns; calls: a call to a model; errors: what can go wrong
    agent      runs inside the sandbox; shares only wire, settings.container, model and errors

One message's way: ``api`` accepts it into the ``store`` (one transaction, then 202); ``host``'s
dispatcher gets a slot of the pool and claims what waits in the group as a turn, which makes the
group this host's; the pool has the group's warm sandbox or asks the ``Spawner`` for one; a session
speaks ACP with the agent inside; the agent asks the model through the ``gateway``, and the host for
its tools, by one socket; its updates become events, and messages that come meanwhile join the turn;
the answer is one more transaction, and the deliverer sends what that has put into the outbox by a
channel. ``docs/architecture.md`` is the longer map.
"""

__version__ = "0.1.0"

# Honest, and our own: some providers look at it, and a client's is never passed on.
USER_AGENT = f"nanokimi/{__version__}"
