"""HTTP: messages in, events out. ``app`` builds it, ``routes`` holds the calls, ``sse`` streams."""
