"""The way from a sandbox to a model. So far one room: the relay behind each group's socket."""
