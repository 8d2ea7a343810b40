"""Accepts, decides, runs.

``decide`` holds the rules as pure functions; ``dispatcher`` turns waiting messages into turns;
``pool`` hands out the few sandboxes fairly; ``session`` talks to one agent; ``opener`` makes and
unmakes a group's sandbox; ``events`` is the log everybody listens to; ``app`` wires them.
"""
