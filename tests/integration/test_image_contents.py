"""The image: what is in it, and what is not."""

from __future__ import annotations

import asyncio
import json

import pytest

from runner.sandbox.build import build_image
from runner.sandbox.engine import Engine

pytestmark = pytest.mark.docker


def ask(image: str, script: str) -> dict[str, object]:
    """Run a script in the image as its own user; it fills ``r``."""

    async def run() -> str:
        engine = await Engine.connect()
        try:
            script_ = f"import json, os, sys\nr = {{}}\n{script}\nprint(json.dumps(r))"
            return await engine.run_once(image, ["python3", "-c", script_], deadline=60)
        finally:
            await engine.close()

    return json.loads(asyncio.run(run()))


def test_the_user_the_home_and_the_mount_targets_are_there(agent_image: str):
    answer = ask(
        agent_image,
        """
import pwd
r["who"] = [os.getuid(), os.getgid(), pwd.getpwuid(10001).pw_name, os.environ["HOME"], os.getcwd()]
r["node"] = os.path.realpath("/home/node")
r["config"] = os.readlink("/home/agent/.kimi/config.toml")
r["dirs"] = [d for d in ("/workspace", "/run/nanokimi", "/mnt", "/home/agent/.kimi/config",
    "/home/agent/.kimi/credentials", "/home/agent/.kimi/sessions") if not os.path.isdir(d)]
fixed = ("/home/agent", "/home/agent/.kimi", "/opt/nanokimi/lib", "/entrypoint.sh")
r["writable"] = [d for d in fixed if os.access(d, os.W_OK)]
""",
    )
    assert answer == {
        "who": [10001, 10001, "agent", "/home/agent", "/workspace"],
        "node": "/home/agent",
        "config": "config/config.toml",
        "dirs": [],
        "writable": [],
    }


def test_only_the_agent_s_part_of_the_house_is_inside(agent_image: str):
    answer = ask(
        agent_image,
        """
def names(path):
    return sorted(n for n in os.listdir(path) if n != "__pycache__")
r["house"] = names("/opt/nanokimi/lib/runner")
r["settings"] = names("/opt/nanokimi/lib/runner/settings")
import importlib.util
r["foreign"] = [m for m in ("docker", "pydantic", "sqlalchemy", "structlog", "fastapi")
    if importlib.util.find_spec(m)]
""",
    )
    assert answer == {
        "house": ["__init__.py", "agent", "errors.py", "model.py", "settings", "wire"],
        "settings": ["__init__.py", "container.py"],
        "foreign": [],
    }


def test_nothing_is_compiled_when_the_agent_starts(agent_image: str):
    answer = ask(
        agent_image,
        """
import asyncio, h11, ssl, importlib, pkgutil, runner.agent as a
for m in pkgutil.walk_packages(a.__path__, "runner.agent."):
    if not m.name.endswith("__main__"):
        importlib.import_module(m.name)
r["compiled now"] = sorted(n for n, m in sys.modules.items()
    if getattr(m, "__cached__", None) and not os.path.exists(m.__cached__))
r["main"] = os.path.exists(importlib.util.cache_from_source(a.__path__[0] + "/__main__.py"))
""",
    )
    assert answer == {"compiled now": [], "main": True}


def test_an_image_that_is_up_to_date_is_not_built_again(agent_image: str):
    lines: list[str] = []
    result = build_image(tag=agent_image, progress=lines.append)
    assert not result.built
    assert result.tag == agent_image
    assert lines[-1] == f"{agent_image} is up to date"


def test_no_setting_of_the_host_stays_in_the_image(agent_image: str):
    async def look() -> tuple[str, str]:
        engine = await Engine.connect()
        try:
            history = await engine.run("history", lambda api: api.history(agent_image))
            config = await engine.run("inspect", lambda api: api.inspect_image(agent_image))
            return json.dumps(history), json.dumps(config)
        finally:
            await engine.close()

    for text in asyncio.run(look()):
        for word in ("SSL_CERT", "PIP_", "ca-bundle", "index-url", "find-links", "PROXY"):
            assert word not in text
