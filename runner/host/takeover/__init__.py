"""Takes over an older installation: its config, login, groups, files and readable history.

Agents could write into parts of it, so all of it is a stranger's: it is walked by descriptors,
links and special files are never followed, and no name in it becomes a path of ours.
"""
