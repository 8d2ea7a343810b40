"""What a sandbox sees, as data; and what an operator's mount must not show."""

from pathlib import Path, PurePosixPath

import pytest

from runner.errors import ConfigError
from runner.sandbox.mounts import Mount, check_extra, objection, plan
from runner.sandbox.spawner import ExtraMount, Limits, SandboxSpec
from runner.settings.layout import Layout

DATA = PurePosixPath("/srv/nanokimi")


def spec(*extras: ExtraMount) -> SandboxSpec:
    limits = Limits(memory=1 << 30, cpus=1.0, pids=64)
    return SandboxSpec("the group", "g-1", "", {}, limits, extra_mounts=extras)


def test_a_group_sees_its_own_directories_and_nothing_else():
    data = Path("/d")
    assert plan(Layout(data), spec()) == (
        Mount(data / "run/g-1/config", "/home/agent/.kimi/config", read_only=True),
        Mount(data / "run/g-1/credentials", "/home/agent/.kimi/credentials", read_only=True),
        Mount(data / "sessions/g-1", "/home/agent/.kimi/sessions", read_only=False),
        Mount(data / "groups/g-1", "/workspace", read_only=False),
        Mount(data / "run/g-1/socket", "/run/nanokimi", read_only=True),
    )


def test_no_read_only_mount_lies_below_a_writable_one():
    mounts = plan(Layout(Path("/d")), spec(ExtraMount("docs", "/srv/docs")))
    writable = [PurePosixPath(m.target) for m in mounts if not m.read_only]
    for mount in mounts:
        if mount.read_only:
            assert not any(PurePosixPath(mount.target).is_relative_to(w) for w in writable)


def test_an_extra_mount_lands_below_mnt_and_is_read_only_unless_said_otherwise():
    extras = (ExtraMount("docs", "/srv/docs"), ExtraMount("out", "/srv/out", read_only=False))
    assert plan(Layout(Path("/d")), spec(*extras))[5:] == (
        Mount(Path("/srv/docs"), "/mnt/docs", read_only=True),
        Mount(Path("/srv/out"), "/mnt/out", read_only=False),
    )


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a" * 65, "a b", "é"])
def test_a_mount_name_that_is_not_safe_is_refused(name: str):
    with pytest.raises(ConfigError):
        plan(Layout(Path("/d")), spec(ExtraMount(name, "/srv/docs")))


def test_two_mounts_of_one_name_are_refused():
    with pytest.raises(ConfigError):
        plan(Layout(Path("/d")), spec(ExtraMount("a", "/srv/1"), ExtraMount("a", "/srv/2")))


@pytest.mark.parametrize(
    "source",
    [
        "/", "/etc", "/home", "/root", "/proc/1", "/sys", "/run", "/var/run/x", "/dev/shm",
        "/var/lib/docker/volumes", "/srv", "/srv/nanokimi", "/srv/nanokimi/groups/other",
        "/srv/nanokimi/credentials", "/home/ann/.ssh", "/home/ann/.aws/cli",
    ],
)  # fmt: skip
def test_places_of_the_system_and_of_secrets_are_refused(source: str):
    assert objection(PurePosixPath(source), DATA, frozenset())


def test_a_directory_that_holds_secrets_is_refused():
    assert "id_rsa" in objection(PurePosixPath("/home/ann"), DATA, frozenset({"id_rsa", "notes"}))
    assert ".ssh" in objection(PurePosixPath("/home/ann"), DATA, frozenset({".ssh"}))


def test_an_ordinary_directory_is_allowed(tmp_path: Path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "readme.txt").write_text("hello")
    check_extra(ExtraMount("docs", str(docs)), tmp_path / "data")


def test_a_link_a_file_and_a_missing_path_are_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name, reason in (("file", "not a directory"), ("link", "link to"), ("none", "cannot be")):
        with pytest.raises(ConfigError, match=reason):
            check_extra(ExtraMount("m", str(tmp_path / name)), tmp_path / "data")


def test_a_link_to_the_data_directory_is_refused(tmp_path: Path):
    (tmp_path / "data" / "credentials").mkdir(parents=True)
    (tmp_path / "innocent").symlink_to(tmp_path / "data" / "credentials")
    with pytest.raises(ConfigError):
        check_extra(ExtraMount("m", str(tmp_path / "innocent")), tmp_path / "data")
    with pytest.raises(ConfigError, match="overlaps the data directory"):
        check_extra(ExtraMount("m", str(tmp_path / "data" / "credentials")), tmp_path / "data")
