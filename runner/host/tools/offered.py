"""The tools of the host, in the order in which agents are told of them."""

from __future__ import annotations

from runner.host.files import SentFiles
from runner.host.tools.ask import AskUser, Expect
from runner.host.tools.files import SendFile
from runner.host.tools.groups import ListGroups, RegisterGroup
from runner.host.tools.messages import SendMessage
from runner.host.tools.tasks import task_tools
from runner.host.tools.tool import AnyTool
from runner.host.tools.web import Web
from runner.store.task_desk import Tasks


def offered(tasks: Tasks, web: Web, sent: SentFiles, expect: Expect) -> tuple[AnyTool, ...]:
    """Every tool there is; settings and roles decide who gets which."""
    return (
        SendMessage(),
        SendFile(sent),
        AskUser(expect),
        *task_tools(tasks),
        *web.tools,
        RegisterGroup(),
        ListGroups(),
    )
