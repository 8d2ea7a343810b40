"""What the host does for its agents, as tools over MCP.

``tool`` is what a tool is made of; ``desk`` says which of them a group's running turn may use, and
runs a call once; ``policy`` decides; ``server`` speaks MCP on the groups' sockets. Each of the
others holds tools of one kind.
"""
