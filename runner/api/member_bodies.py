"""What the calls about people take and answer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from runner.model import Role


class RoleIn(BaseModel):
    """What the person shall be in this group."""

    model_config = ConfigDict(extra="forbid")

    role: Role


class MemberOut(BaseModel):
    """A person whom something names; everybody else has the default role."""

    member: str
    role: str
    given_in: str = Field(
        description="`group`: with this API, and it can be changed so; `config`: in config.toml."
    )

    @classmethod
    def of(cls, member: str, role: Role, *, stored: bool) -> MemberOut:
        return cls(member=member, role=str(role), given_in="group" if stored else "config")


class MemberList(BaseModel):
    members: list[MemberOut]
    default_role: str
