"""The web for agents that have no network: pages are fetched and searches made by the host.

What a group asks for is a stranger's wish, and what comes back is a stranger's text. The first is
checked (``address``, ``connect``), the second is read in a process of its own (``reading``) and
handed to the model with a frame around it (``frame``).
"""
