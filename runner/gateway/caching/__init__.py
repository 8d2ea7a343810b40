"""Explicit context caching: the beginning of a conversation is kept at the provider, by its id.

Read in this order: ``prefix`` says what is cached and under which key, ``references`` who still
needs it, ``records`` remembers the ids, ``provider`` speaks HTTP, ``explicit`` puts it together.
"""
