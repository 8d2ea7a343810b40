"""Trees that a stranger made: removed and measured, whatever their shape."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.sandbox.trees import MAX_DEPTH, Missing, measure, remove_tree


def deepen(path: Path, levels: int) -> None:
    """Directories in directories, far beyond what one path can say."""
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("leaf", os.O_CREAT, 0o600, dir_fd=fd))
    os.close(fd)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)


@pytest.mark.usefixtures("few_descriptors")
def test_a_tree_far_deeper_than_paths_and_stacks_is_removed(tmp_path: Path):
    deepen(tmp_path / "t", 5_000)
    remove_tree(tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_what_a_link_leads_to_stays(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    tree = tmp_path / "t"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "link").symlink_to(outside)
    (tree / "file").symlink_to(outside / "mine")
    os.mkfifo(tree / "fifo")
    remove_tree(tree)
    (tmp_path / "t").symlink_to(outside)
    remove_tree(tmp_path / "t")
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]
    assert (outside / "mine").read_text() == "mine"


@pytest.mark.parametrize("missing", ["gone", "gone/deep"])
def test_removing_what_is_not_there_is_nothing(tmp_path: Path, missing: str):
    remove_tree(tmp_path / missing)


def test_directories_that_their_owner_locked_are_removed(tmp_path: Path):
    inner = tmp_path / "t" / "locked" / "inner"
    inner.mkdir(parents=True)
    (inner / "f").write_text("x")
    inner.chmod(0o000)
    inner.parent.chmod(0o500)
    if os.geteuid() == 0:  # root passes every lock: let another do it
        for path in (tmp_path, tmp_path / "t", inner.parent, inner):
            os.chown(path, 12345, 12345)
        tmp_path.chmod(0o700)
        opened_to_all = [p for p in tmp_path.parents if p.stat().st_mode & 0o001 == 0]
        modes = {p: p.stat().st_mode for p in opened_to_all}
        for p in opened_to_all:
            p.chmod(0o711)
        try:
            child = os.fork()
            if child == 0:
                os.setuid(12345)
                try:
                    remove_tree(tmp_path / "t")
                except BaseException:
                    os._exit(1)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            for p, mode in modes.items():
                p.chmod(mode)
    else:
        remove_tree(tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_too_much_to_remove_in_time_is_an_error(tmp_path: Path):
    (tmp_path / "t" / "deep").mkdir(parents=True)
    (tmp_path / "t" / "deep" / "f").write_text("x")
    with pytest.raises(TimeoutError):
        remove_tree(tmp_path / "t", deadline=-1)


def test_a_sparse_file_counts_what_it_takes_and_a_full_one_too(tmp_path: Path):
    (tmp_path / "d").mkdir()
    with (tmp_path / "d" / "sparse").open("wb") as f:
        f.truncate(1 << 40)
    with (tmp_path / "d" / "full").open("wb") as f:
        f.write(os.urandom(1 << 20))
        f.flush()
        os.fsync(f.fileno())
    (tmp_path / "d" / "link").symlink_to("/")
    with opened(tmp_path) as fd:
        usage = measure(fd, max_entries=100, deadline=10)
    assert usage.missing is None
    assert usage.entries == 4
    assert 1 << 20 <= usage.used < 2 << 20


def test_measuring_ends_at_its_bounds_and_says_so(tmp_path: Path):
    for i in range(20):
        (tmp_path / str(i)).write_text("")
    deepen(tmp_path / "deep", MAX_DEPTH + 5)
    with opened(tmp_path) as fd:
        assert measure(fd, max_entries=10, deadline=10).missing is Missing.ENTRIES
        assert measure(fd, max_entries=10_000, deadline=10).missing is Missing.DEPTH
        assert measure(fd, max_entries=10_000, deadline=-1).missing is Missing.TIME
        before = len(os.listdir("/proc/self/fd"))
        measure(fd, max_entries=10, deadline=10)
        assert len(os.listdir("/proc/self/fd")) == before
