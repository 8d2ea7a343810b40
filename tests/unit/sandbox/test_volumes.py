"""Directories and projections of a group on the host."""

import os
import stat
from pathlib import Path

import pytest

from runner.errors import PermanentError
from runner.sandbox.volumes import (
    Owner,
    prepare,
    project_config,
    project_credentials,
    sandbox_owner,
    write_atomic,
)
from runner.settings.layout import Layout

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def test_everything_a_sandbox_mounts_is_there_with_its_mode(layout: Layout):
    old = os.umask(0o077)
    try:
        prepare(layout, "g-1", sandbox_owner())
        project_config(layout, "g-1", 'default_model = "k"')
        project_credentials(layout, "g-1", {"kimi-code.json": "{}"})
    finally:
        os.umask(old)
    assert mode(layout.workspace("g-1")) == 0o700
    assert mode(layout.sessions("g-1")) == 0o700
    assert mode(layout.group_run("g-1")) == 0o700
    assert mode(layout.socket_dir("g-1")) == 0o711
    assert mode(layout.config_projection("g-1")) == 0o755
    assert mode(layout.config_projection("g-1") / "config.toml") == 0o444
    assert mode(layout.credentials_projection("g-1") / "kimi-code.json") == 0o444
    for path in (layout.workspace("g-1"), layout.sessions("g-1")):
        assert (path.stat().st_uid, path.stat().st_gid) == (
            sandbox_owner().uid,
            sandbox_owner().gid,
        )


def test_preparing_again_changes_no_file(layout: Layout):
    prepare(layout, "g-1", sandbox_owner())
    project_config(layout, "g-1", "x = 1")
    before = (layout.config_projection("g-1") / "config.toml").stat().st_ino
    prepare(layout, "g-1", sandbox_owner())
    project_config(layout, "g-1", "x = 1")
    assert (layout.config_projection("g-1") / "config.toml").stat().st_ino == before


def test_a_projection_holds_exactly_what_was_given(layout: Layout):
    prepare(layout, "g-1", sandbox_owner())
    project_credentials(layout, "g-1", {"old.json": "1", "kept.json": "1"})
    project_credentials(layout, "g-1", {"kept.json": "2"})
    files = {p.name: p.read_text() for p in layout.credentials_projection("g-1").iterdir()}
    assert files == {"kept.json": "2"}


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x\0y"])
def test_a_credential_name_that_is_a_path_is_refused(layout: Layout, name: str):
    prepare(layout, "g-1", sandbox_owner())
    with pytest.raises(ValueError, match="plain file name"):
        project_credentials(layout, "g-1", {name: "{}"})


def test_an_open_file_keeps_the_old_content_when_it_is_replaced(tmp_path: Path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        write_atomic(fd, "token", b"old", 0o600)
        with (tmp_path / "token").open("rb") as reader:
            write_atomic(fd, "token", b"new", 0o600)
            assert reader.read() == b"old"
    finally:
        os.close(fd)
    assert (tmp_path / "token").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize("where", ["groups", "groups/g-1", "sessions/g-1", "run/g-1/credentials"])
def test_a_planted_link_is_an_error_and_is_not_followed(layout: Layout, where: str):
    outside = layout.root.parent / f"{layout.root.name}-outside"
    outside.mkdir()
    (layout.root / where).parent.mkdir(parents=True, exist_ok=True)
    (layout.root / where).symlink_to(outside)
    with pytest.raises(PermanentError, match="is a link or a file"):
        prepare(layout, "g-1", sandbox_owner())
    assert not list(outside.iterdir())


def test_a_link_in_place_of_a_credential_is_an_error_and_is_not_written_through(layout: Layout):
    prepare(layout, "g-1", sandbox_owner())
    victim = layout.root / "victim"
    victim.write_text("mine")
    (layout.credentials_projection("g-1") / "kimi-code.json").symlink_to(victim)
    with pytest.raises(PermanentError):
        project_credentials(layout, "g-1", {"kimi-code.json": "{}"})
    assert victim.read_text() == "mine"


@needs_root
def test_files_of_another_owner_are_given_to_the_sandbox_but_links_are_not_followed(
    layout: Layout,
):
    workspace = layout.workspace("g-1")
    (workspace / "deep").mkdir(parents=True)
    (workspace / "deep" / "AGENTS.md").write_text("hello")
    outside = layout.root / "outside"
    outside.write_text("")
    (workspace / "link").symlink_to(outside)
    prepare(layout, "g-1", Owner(12345, 12345))
    assert (workspace / "deep" / "AGENTS.md").stat().st_uid == 12345
    assert (workspace / "link").lstat().st_uid == 12345
    assert outside.stat().st_uid == 0


@needs_root
def test_a_tree_too_deep_to_be_given_away_is_an_error_in_words(layout: Layout):
    workspace = layout.workspace("g-1")
    (workspace / "/".join("d" * 120)).mkdir(parents=True)
    with pytest.raises(PermanentError, match="levels of directories"):
        prepare(layout, "g-1", Owner(12345, 12345))
    assert workspace.stat().st_uid == 0  # seen as not done
