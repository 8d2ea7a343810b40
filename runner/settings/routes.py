"""The built-in routes: kinds of work, who does them, and how they are asked.

A route is asked for as the model ``route:NAME``. ``[routes.NAME]`` overrides any part of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.settings.tables import Gateway, Roles

PREFIX = "route:"

_FAST = """\
You are a quick and concise programmer. Do the task with the context you are given.
Answer with the code only, without an explanation."""

_BUILD = """\
You are a senior software engineer. Do the task with the context you are given.
Write code of production quality: handle errors, document the important functions, follow the \
patterns of the code base, and mind performance."""

_VALIDATION = """\
You are a code reviewer. Judge the code you are given by its security, its performance, its \
maintainability and the conventions of its code base.
Answer with VALID or INVALID as the first word, then give a short reason."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """``roles`` are fields of ``[gateway.roles]``, in order of preference."""

    name: str
    roles: tuple[str, ...]
    temperature: float | None = None
    prompt: str = ""


BUILT_IN = {
    route.name: route
    for route in (
        BuiltIn("FAST", ("primary", "fast", "fallback"), 0.3, _FAST),
        BuiltIn("BUILD", ("primary", "validation", "fallback"), 0.2, _BUILD),
        BuiltIn("DOUBLE-CHECK", ("validation", "primary"), 0.1, _VALIDATION),
        BuiltIn("SURGICAL_EDIT", ("primary", "fallback"), 0.2, _FAST),
    )
}
ANY_OTHER = BuiltIn("", ("primary", "fallback"))
"""What a route that nobody defined becomes, with a warning."""

_ALIASES = {"VALIDATION": "DOUBLE-CHECK", "SURGICAL-EDIT": "SURGICAL_EDIT"}


def canonical(name: str) -> str:
    """``fast``, ``SURGICAL_EDIT`` and ``validation`` as the names of :data:`BUILT_IN`."""
    spelled = name.strip().upper().replace("_", "-")
    return _ALIASES.get(spelled, spelled)


def role_chain(roles: tuple[str, ...], gateway: Gateway, default_model: str) -> tuple[str, ...]:
    """The models that fill these roles; ``default_model`` is the primary one unless another is."""
    table = gateway.roles
    filled = {
        "primary": table.primary or default_model,
        "validation": table.validation,
        "fallback": table.fallback,
        "fast": table.fast,
    }
    return tuple(dict.fromkeys(filled[role] for role in roles if filled[role]))


def chosen_roles(roles: Roles) -> dict[str, str]:
    """The roles that the config fills in its own way, by name: those models must exist."""
    usual = Roles()
    return {
        role: name
        for role in Roles.model_fields
        if (name := getattr(roles, role)) and name != getattr(usual, role)
    }
