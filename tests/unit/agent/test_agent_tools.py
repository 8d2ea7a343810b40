"""The tools, on real files and processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.agent import tools
from runner.agent.chat import Call, Function
from runner.agent.children import Children
from runner.agent.output import HeadTail
from runner.agent.tools.search_worker import translate
from runner.agent.tools.tool import Outcome, Room
from runner.agent.tools.workspace import Workspace


class Bench:
    """A workspace with a secret beside it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "workspace"
        self.path.mkdir()
        self.secret = root / "secret.txt"
        self.secret.write_text("hunter2")
        self._room = Room(Workspace(str(self.path)), Children())

    async def run(self, name: str, **arguments: Any) -> Outcome:
        call = Call(id="x", function=Function(name, json.dumps(arguments)))
        return await tools.run(call, self._room)


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_read_shows_numbered_lines_and_says_how_to_go_on(bench: Bench) -> None:
    (bench.path / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 3001)))
    got = await bench.run("read", path="a.txt")
    assert got.text.startswith("     1\tline 1\n")
    assert got.text.endswith("offset 2001]")
    part = await bench.run("read", path=str(bench.path / "a.txt"), offset=10, limit=2)
    assert part.text == "    10\tline 10\n    11\tline 11\n[there is more: go on with offset 12]"
    end = await bench.run("read", path="a.txt", offset=3000)
    assert end.text == "  3000\tline 3000"


async def test_read_bounds_long_lines_and_refuses_binaries(bench: Bench) -> None:
    (bench.path / "long").write_bytes(b"x" * 3_000_000 + b"\nnext")
    got = await bench.run("read", path="long")
    assert len(got.text) < 2_100
    assert got.text.endswith("     2\tnext")
    (bench.path / "bin").write_bytes(b"ELF\0\1")
    assert (await bench.run("read", path="bin")).failed
    (bench.path / "empty").touch()
    assert (await bench.run("read", path="empty")).text == "(empty file)"


@pytest.mark.parametrize("path", ["gone.txt", ".", "fifo", "", "a\0b"])
async def test_read_of_something_else_is_an_answer_not_an_exception(
    bench: Bench, path: str
) -> None:
    os.mkfifo(bench.path / "fifo")
    got = await bench.run("read", path=path)
    assert got.failed
    assert got.text


async def test_write_makes_parents_replaces_whole_and_keeps_the_mode(bench: Bench) -> None:
    assert (await bench.run("write", path="a/b/c.sh", content="one")).text.startswith("created")
    script = bench.path / "a/b/c.sh"
    script.chmod(0o755)
    assert (await bench.run("write", path="a/b/c.sh", content="two")).text.startswith("replaced")
    assert script.read_text() == "two"
    assert script.stat().st_mode & 0o777 == 0o755
    assert os.listdir(script.parent) == ["c.sh"]


async def test_edit_wants_one_exact_passage(bench: Bench) -> None:
    file = bench.path / "a.py"
    file.write_text("x = 1\nx = 1\ny = 2\r\n")
    assert "2 times" in (await bench.run("edit", path="a.py", old="x = 1", new="x = 3")).text
    assert "not in the file" in (await bench.run("edit", path="a.py", old="z", new="w")).text
    assert (await bench.run("edit", path="a.py", old="", new="w")).failed
    assert not (await bench.run("edit", path="a.py", old="y = 2", new="y = 4")).failed
    await bench.run("edit", path="a.py", old="x = 1", new="x = 3", replace_all=True)
    assert file.read_bytes() == b"x = 3\nx = 3\ny = 4\r\n"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "out",
        "folder/secret.txt",
        "up/secret.txt",
        "chain",
        "sub/../../secret.txt",
        "/etc/hostname",
        "absolute",
    ],
)
@pytest.mark.parametrize("tool", ["read", "write", "edit"])
async def test_no_path_leads_out_of_the_workspace(bench: Bench, path: str, tool: str) -> None:
    (bench.path / "sub").mkdir()
    (bench.path / "out").symlink_to(bench.secret)
    (bench.path / "folder").symlink_to(bench.path.parent)
    (bench.path / "up").symlink_to("..")
    (bench.path / "chain").symlink_to("sub/link")
    (bench.path / "sub" / "link").symlink_to("../../secret.txt")
    (bench.path / "absolute").symlink_to("/etc/hostname")
    arguments = {
        "read": {},
        "write": {"content": "owned"},
        "edit": {"old": "hunter2", "new": "owned"},
    }[tool]
    got = await bench.run(tool, path=path, **arguments)
    assert got.failed
    assert "outside the workspace" in got.text
    assert bench.secret.read_text() == "hunter2"


async def test_a_link_inside_the_workspace_is_followed(bench: Bench) -> None:
    (bench.path / "real").mkdir()
    (bench.path / "real/file").write_text("old")
    (bench.path / "link").symlink_to("real")
    (bench.path / "direct").symlink_to(bench.path / "link" / "file")
    await bench.run("write", path="direct", content="new")
    assert (bench.path / "real/file").read_text() == "new"
    assert (bench.path / "direct").is_symlink()


async def test_links_in_a_circle_are_an_answer(bench: Bench) -> None:
    (bench.path / "a").symlink_to("b")
    (bench.path / "b").symlink_to("a")
    assert "too many links" in (await bench.run("read", path="a")).text


async def test_glob_and_grep_find_files_and_lines_but_follow_no_link(bench: Bench) -> None:
    (bench.path / "src/deep").mkdir(parents=True)
    (bench.path / "src/a.py").write_text("import os\nsecret = 1\n")
    (bench.path / "src/deep/b.py").write_text("x = 2\n")
    (bench.path / "c.txt").write_text("secret words\n")
    (bench.path / "bin").write_bytes(b"secret\0")
    (bench.path / "out").symlink_to(bench.path.parent)
    assert (await bench.run("glob", pattern="**/*.py")).text == "src/a.py\nsrc/deep/b.py"
    assert (await bench.run("glob", pattern="*.py", path="src")).text == "a.py"
    found = await bench.run("grep", pattern="secr.t")
    assert found.text == "c.txt:1:secret words\nsrc/a.py:2:secret = 1"
    only = await bench.run("grep", pattern="secr.t", glob="*.py")
    assert only.text == "src/a.py:2:secret = 1"
    assert (await bench.run("grep", pattern="hunter2")).text == "(no matches)"
    assert (await bench.run("grep", pattern="(")).failed
    assert (await bench.run("glob", pattern="*", path="out")).failed


async def test_grep_stops_after_enough_matches(bench: Bench) -> None:
    (bench.path / "many").write_text("x\n" * 10_000)
    got = await bench.run("grep", pattern="x")
    assert got.text.endswith("[stopped after 200 matches]")


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py"], ["d/a.py", "a.pyc"]),
        ("**/*.py", ["a.py", "d/e/a.py"], ["a.txt"]),
        ("d/**", ["d/a", "d/e/f"], ["e/a"]),
        ("[!a]?.t[xy]", ["bc.tx"], ["ac.tx", "bc.tz"]),
        ("a+(b)$", ["a+(b)$"], ["aab"]),
    ],
)
def test_glob_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = translate(pattern).fullmatch
    assert all(matches(path) for path in yes)
    assert not any(matches(path) for path in no)


@given(st.text(max_size=20))
def test_any_glob_pattern_translates_or_is_an_error_of_its_own(pattern: str) -> None:
    with contextlib.suppress(re.error):
        translate(pattern)


async def test_bash_tells_the_exit_code_and_joins_both_outputs(bench: Bench) -> None:
    got = await bench.run("bash", command="pwd; echo err >&2; exit 3")
    assert got == Outcome(f"{bench.path}\nerr\n[exit code 3]", failed=True)
    killed = await bench.run("bash", command="kill -9 $$")
    assert killed.text == "[exit code 137]"


@given(st.lists(st.binary(max_size=400), max_size=30), st.integers(2, 60))
def test_head_and_tail_are_kept_in_bounded_memory(chunks: list[bytes], limit: int) -> None:
    kept = HeadTail(limit)
    for chunk in chunks:
        kept.feed(chunk)
    whole = b"".join(chunks).decode("utf-8", "replace")
    text = kept.text()
    half = limit // 2
    if len(b"".join(chunks)) <= half:
        assert text == whole
    assert len(text) <= 2 * half + 60
    assert text.startswith(whole[: min(half, len(whole))][:half])


def test_schemas_are_the_same_bytes_each_time_and_plain() -> None:
    for schema in json.loads(tools.SCHEMAS):
        parameters = schema["function"]["parameters"]
        assert set(parameters) == {"type", "properties", "required"}
        assert set(parameters["required"]) <= set(parameters["properties"])
