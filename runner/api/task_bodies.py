"""What the calls about tasks take and answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runner.channels.webhook import MAX_URL, refusal
from runner.model import MAX_ID_CHARS, Task
from runner.schedule import ScheduleKind, local_time
from runner.store.task_desk import Missed, NewTask, Session, TaskChange
from runner.store.tasks import TaskInfo

_SESSION = "`own`: a conversation of the task's own; `group`: the group's."


_MISSED = "What becomes of runs that fell into a downtime: `once` makes one of them, `skip` none."


_ZONE = "IANA name, of the cron fields and of times without an offset."


def _checked_url(value: str) -> str:
    if value and (why := refusal(value)):
        raise ValueError(why)
    return value


ReplyUrl = Annotated[str, Field(max_length=MAX_URL), AfterValidator(_checked_url)]


class ScheduleIn(BaseModel):
    """When: exactly one of the three."""

    model_config = ConfigDict(extra="forbid")

    cron: str | None = Field(None, max_length=1000, examples=["0 9 * * 1-5"])
    interval: str | float | None = Field(
        None, description="Seconds, or a duration such as `30m`.", examples=["30m"]
    )
    once: str | None = Field(None, max_length=1000, examples=["2027-01-31T09:00"])

    @model_validator(mode="after")
    def _one(self) -> ScheduleIn:
        if sum(v is not None for v in (self.cron, self.interval, self.once)) != 1:
            raise ValueError("give one of cron, interval and once")
        return self

    def parts(self) -> tuple[ScheduleKind, str]:
        """The kind, and its words."""
        if self.cron is not None:
            return ScheduleKind.CRON, self.cron
        if self.once is not None:
            return ScheduleKind.ONCE, self.once
        return ScheduleKind.INTERVAL, str(self.interval)


class NewTaskIn(BaseModel):
    """Work for a group's agent, at set times."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(description="What the agent is to do each time.")
    schedule: ScheduleIn
    timezone: str = Field("", max_length=100, description=_ZONE, examples=["Europe/Zurich"])
    session: Session = Field("own", description=_SESSION)
    missed: Missed | None = Field(None, description=_MISSED)
    reply_url: ReplyUrl = Field("", description="Where its answers go; else where the group's do.")
    created_by: str = Field(
        "",
        max_length=MAX_ID_CHARS,
        description="The `sender_id` of the person whose role its runs have; else `member`.",
    )

    def task(self) -> NewTask:
        kind, when = self.schedule.parts()
        return NewTask(
            prompt=self.prompt,
            kind=kind,
            when=when,
            timezone=self.timezone,
            session=self.session,
            missed=self.missed or "",
            reply_url=self.reply_url,
        )


class TaskChangeIn(BaseModel):
    """What shall be different; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = None
    schedule: ScheduleIn | None = None
    timezone: str | None = Field(None, max_length=100, description=_ZONE)
    session: Session | None = Field(None, description=_SESSION)
    missed: Missed | None = Field(None, description=_MISSED)
    reply_url: ReplyUrl | None = None
    paused: bool | None = Field(None, description="True: no runs until it is false again.")

    def change(self) -> TaskChange:
        kind, when = (None, None) if self.schedule is None else self.schedule.parts()
        return TaskChange(
            prompt=self.prompt,
            kind=kind,
            when=when,
            timezone=self.timezone,
            session=self.session,
            missed=self.missed,
            reply_url=self.reply_url,
            paused=self.paused,
        )


class LastRun(BaseModel):
    """``due`` is the time it was for; ``turn_id`` is empty while it waits, or long after."""

    due: str
    message_id: str
    turn_id: str
    status: str = Field(examples=["queued", "running", "done", "failed", "cancelled"])


class TaskOut(BaseModel):
    """A task. Times are ISO 8601 with the offset of its zone, ``created_at`` is Unix seconds."""

    task_id: str
    group: str
    prompt: str
    schedule: dict[str, str] = Field(examples=[{"cron": "0 9 * * 1-5"}])
    timezone: str
    state: str = Field(examples=["active", "paused", "done"])
    next_run: str | None
    session: str
    missed: str
    reply_url: str
    created_by: str
    created_at: float
    runs: int
    last_run: LastRun | None

    @classmethod
    def of(cls, info: TaskInfo) -> TaskOut:
        task = info.task
        return cls(
            task_id=task.id,
            group=task.group,
            prompt=task.prompt,
            schedule={task.kind: task.spec},
            timezone=task.timezone,
            state=str(task.state),
            next_run=None if task.next_at is None else local_time(task.next_at, task.timezone),
            session=task.session,
            missed=task.missed,
            reply_url=task.reply_url,
            created_by=task.created_by,
            created_at=task.created_at,
            runs=task.runs,
            last_run=_last_run(task, info),
        )


class TaskList(BaseModel):
    tasks: list[TaskOut]


def _last_run(task: Task, info: TaskInfo) -> LastRun | None:
    if task.last_at is None:
        return None
    return LastRun(
        due=local_time(task.last_at, task.timezone),
        message_id=task.last_message_id,
        turn_id=info.last_turn,
        status=info.last_status,
    )
