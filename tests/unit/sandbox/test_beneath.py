"""No path of a stranger's leads out of their directory, however they change it meanwhile."""

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runner.errors import NanokimiError, NotFoundError, PermanentError
from runner.sandbox import beneath
from runner.sandbox.beneath import (
    copy,
    create,
    directory_beneath,
    open_beneath,
    open_by_component,
    open_regular,
    parts_of,
    write_all,
)

Open = Callable[..., int]
OPENERS = [pytest.param(open_beneath, id="openat2"), pytest.param(open_by_component, id="openat")]


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    root = tmp_path / "inside"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "file").write_text("mine")
    return root


@pytest.fixture
def root(inside: Path) -> Iterator[int]:
    fd = os.open(inside, os.O_RDONLY)
    yield fd
    os.close(fd)


def read(root: int, path: str, limit: int = 1000) -> bytes:
    fd, _ = open_regular(root, path, limit)
    with os.fdopen(fd, "rb") as file:
        return file.read()


@pytest.fixture(params=[False, True], ids=["openat", "openat2"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not beneath._kernel_resolves():
        pytest.skip("this kernel has no openat2")
    monkeypatch.setattr(beneath, "_kernel_resolves", lambda: request.param)


either_way = pytest.mark.usefixtures("_either_way")


@either_way
def test_a_file_is_read_by_its_relative_path(root: int):
    assert read(root, "deep/file") == b"mine"
    assert read(root, "./deep//file") == b"mine"


@pytest.mark.parametrize(
    "path", ["", ".", "/", "/etc/passwd", "..", "../outside/secret", "deep/../../outside/secret",
             "deep/..", "a\0b", "\ud800", "x" * 256, "x/" * 3000],
)  # fmt: skip
def test_a_path_that_is_none_is_refused_with_a_reason(root: int, path: str):
    with pytest.raises(PermanentError) as told:
        read(root, path)
    assert told.value.code == "bad_path"
    assert told.value.hint
    told.value.message.encode()


@either_way
def test_links_are_refused_wherever_they_are(inside: Path, root: int):
    (inside / "dir").symlink_to(inside.parent / "outside")
    (inside / "file").symlink_to(inside.parent / "outside" / "secret")
    (inside / "own").symlink_to("deep")
    (inside / "proc").symlink_to("/proc/self/root")
    for path in ("dir/secret", "file", "own/file", "proc/etc/passwd"):
        with pytest.raises(PermanentError) as told:
            read(root, path)
        assert told.value.code == "unsafe_path", path


@either_way
def test_what_is_no_regular_file_is_refused_and_holds_nobody_up(inside: Path, root: int):
    os.mkfifo(inside / "fifo")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(inside / "sock"))
        for path in ("fifo", "sock", "deep"):
            with pytest.raises(PermanentError) as told:
                read(root, path)
            assert told.value.code == "not_a_file", path


@either_way
def test_a_missing_file_is_named(root: int):
    with pytest.raises(NotFoundError, match='no file "deep/none"'):
        read(root, "deep/none")


def test_a_file_that_is_too_large_is_refused_by_its_size(inside: Path, root: int):
    with (inside / "sparse").open("wb") as f:
        f.truncate(1 << 40)
    with pytest.raises(PermanentError) as told:
        read(root, "sparse")
    assert told.value.code == "file_too_large"
    assert str(1 << 40) in told.value.message


def test_a_file_that_grows_while_it_is_read_is_refused(inside: Path, root: int, tmp_path: Path):
    fd, size = open_regular(root, "deep/file", 4)
    assert size == 4
    (inside / "deep" / "file").write_text("mine and more")
    target = os.open(tmp_path / "copy", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(PermanentError, match="grew"):
            copy(fd, target, 4, "file")
    finally:
        os.close(fd)
        os.close(target)


@either_way
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.sampled_from(
            ["..", ".", "", "deep", "file", "link", "up", "abs", "outside", "secret", "\x7f", "é"]
        ),
        max_size=8,
    ).map("/".join)
)
@example("link/secret")
@example("up/outside/secret")
def test_no_path_reads_a_byte_from_outside(root: int, inside: Path, path: str):
    for name, target in {"link": "../outside", "up": "..", "abs": str(inside.parent)}.items():
        if not (inside / name).is_symlink():
            (inside / name).symlink_to(target)
    try:
        found = read(root, path)
    except NanokimiError:
        return
    assert found == b"mine"


@pytest.mark.parametrize("opener", OPENERS)
def test_a_directory_that_is_swapped_for_a_link_never_gives_bytes_from_outside(
    inside: Path, root: int, opener: Open
):
    """The attack: the path is right when it is looked at, and a link when it is used."""
    (inside.parent / "outside" / "file").write_text("secret")
    real, link = inside / "real", inside / "link"
    (inside / "deep").rename(real)
    link.symlink_to("../outside")
    # A process of its own: a thread would only swap where the interpreter lets it.
    script = (
        "import os, sys; os.chdir(sys.argv[1])\n"
        "while True:\n"
        "    for one in ('real', 'link'):\n"
        "        os.rename(one, 'deep'); os.rename('deep', one)\n"
    )
    swapper = subprocess.Popen([sys.executable, "-S", "-c", script, str(inside)])
    seen: dict[bytes, int] = {}
    links = 0
    end = time.monotonic() + 60
    try:
        while (seen.get(b"mine", 0) < 300 or links < 300) and time.monotonic() < end:
            try:
                fd = opener(root, ("deep", "file"), os.O_RDONLY)
            except OSError as e:
                links += e.errno in (errno.ELOOP, errno.ENOTDIR)
                continue
            with os.fdopen(fd, "rb") as file:
                data = file.read()
            seen[data] = seen.get(data, 0) + 1
            assert data == b"mine"
    finally:
        swapper.kill()
        swapper.wait()
    assert seen[b"mine"] >= 300
    assert links >= 300


def test_a_file_is_written_whole_or_not_at_all(inside: Path, root: int):
    def fill(fd: int) -> None:
        write_all(fd, b"half")
        raise RuntimeError("in between")

    made: list[int] = []
    with directory_beneath(root, ("a", "b"), 0o700, made.append) as fd:
        with pytest.raises(RuntimeError):
            create(fd, "f", fill)
        assert not list((inside / "a" / "b").iterdir())
        create(fd, "f", lambda out: write_all(out, b"whole"))
    assert (inside / "a" / "b" / "f").read_bytes() == b"whole"
    assert len(made) == 2


@pytest.mark.parametrize("where", ["a", "a/b", "a/b/f"])
def test_a_planted_link_diverts_no_write_and_is_kept_aside(inside: Path, root: int, where: str):
    outside = inside.parent / "outside"
    (inside / where).parent.mkdir(parents=True, exist_ok=True)
    (inside / where).symlink_to(outside if where != "a/b/f" else outside / "secret")
    with directory_beneath(root, ("a", "b"), 0o700, lambda _: None) as fd:
        create(fd, "f", lambda out: write_all(out, b"ours"))
    assert (inside / "a" / "b" / "f").read_bytes() == b"ours"
    assert not (inside / "a" / "b" / "f").is_symlink()
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"secret": "secret"}


@pytest.mark.parametrize("where", ["a", "a/b"])
def test_a_planted_file_in_the_place_of_a_directory_is_kept_aside(
    inside: Path, root: int, where: str
):
    (inside / where).parent.mkdir(parents=True, exist_ok=True)
    (inside / where).write_text("in the way")
    with directory_beneath(root, ("a", "b"), 0o700, lambda _: None) as fd:
        create(fd, "f", lambda out: write_all(out, b"ours"))
    assert (inside / "a" / "b" / "f").read_bytes() == b"ours"
    kept = [p for p in inside.rglob("aside-*") if p.is_file()]
    assert [p.read_text() for p in kept] == ["in the way"]


def test_a_planted_directory_in_the_place_of_a_file_is_kept_aside(inside: Path, root: int):
    (inside / "a" / "f" / "full").mkdir(parents=True)
    with directory_beneath(root, ("a",), 0o700, lambda _: None) as fd:
        create(fd, "f", lambda out: write_all(out, b"ours"))
    assert (inside / "a" / "f").read_bytes() == b"ours"


def test_parts_say_what_a_path_is_made_of():
    assert parts_of("a//./b/") == ("a", "b")
