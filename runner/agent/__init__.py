"""The agent inside a sandbox: ACP over stdin and stdout, one conversation a session.

::

    __main__      claims the protocol's descriptors, then starts app
    process       descriptors, dumpable flag, subreaper
    stdio         the two descriptors as a byte channel
    app           ACP methods; sessions and their one running turn
    turn          the loop: ask the model, run tools, until it is done
    updates       what the client sees while a turn runs
    session       one conversation: journal on disk, conversation in memory
    journal       one JSON line per entry, fsync before it counts
    conversation  what the entries add up to (pure)
    chat          messages of the chat completions API (pure)
    request       one request's bytes; the model families (pure)
    provider      asks the model, with retries
    completion    a streamed answer: events in, reply out (pure)
    failures      what a refusal means, and when to try again (pure)
    transport     HTTP/1.1 over TCP or a Unix socket
    compaction    when and how the conversation is summed up
    prompt        the system text and AGENTS.md
    children      processes of tools; output keeps their head and tail
    tools         bash, read, write, edit, glob, grep, all within the workspace
    notes         what goes to stderr

Imports: the standard library, msgspec, h11, and of the house only ``wire``, ``settings.container``,
``model`` and ``errors``: the agent starts in a cold container while somebody waits.
"""
