"""What an agent is told with the run of a task, beside the task itself."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from runner.model import Message
from runner.store.silence import SILENCE

_NOTE = (
    "The time of a scheduled task has come; nobody has just written. Do what it says. Your answer"
    f" is sent to the chat. When there is nothing to tell, answer {SILENCE} and nothing else:"
    " then nothing is sent."
)


def scheduled(run: Message, framed: str) -> str:
    """A run's message, framed already, with what it is: pure.

    A person's words are escaped inside their frame, so nobody can pass for a schedule.
    """
    task = run.metadata["task"]
    return (
        f"<scheduled-task id={quoteattr(task['id'])} schedule={quoteattr(task['schedule'])}"
        f" due={quoteattr(task['due'])}>\n{_NOTE}\n{framed}\n</scheduled-task>"
    )
