from __future__ import annotations

from pathlib import Path

import pytest

from runner.model import ExtraMount
from runner.settings.mounts import SECRET_NAMES

from .conftest import Data


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    (path / "wiki").mkdir(parents=True)
    return path


def config(allow: str, source: object, more: str = "") -> str:
    return (
        f"[sandbox]\nmounts_allowlist = ['{allow}']\n"
        f"[groups.a]\nmounts = [{{ source = '{source}'{more} }}]\n"
    )


def test_an_allowed_directory_is_mounted_read_only(data: Data, shared: Path) -> None:
    s = data.load(config(str(shared), shared / "wiki"))
    assert s.for_group("a").extra_mounts == (ExtraMount("wiki", str(shared / "wiki"), True),)
    assert s.for_group("b").extra_mounts == ()


def test_writing_needs_rw_on_both_sides(data: Data, shared: Path) -> None:
    rw = ", mode = 'rw', name = 'w'"
    s = data.load(config(f"{shared}:rw", shared / "wiki", rw))
    assert s.for_group("a").extra_mounts == (ExtraMount("w", str(shared / "wiki"), False),)
    error = data.refused(config(str(shared), shared / "wiki", rw))
    assert "groups.a.mounts[0].mode" in error.message
    assert ":rw" in error.hint


def test_a_directory_outside_of_the_allowlist_is_refused(data: Data, shared: Path) -> None:
    other = shared.parent / "shared-not"
    other.mkdir()
    error = data.refused(config(str(shared), other))
    assert "groups.a.mounts[0].source" in error.message
    assert "sandbox.mounts_allowlist does not allow" in error.message
    assert "sandbox.mounts_allowlist" in error.hint


def test_a_link_out_of_the_allowlist_is_refused(data: Data, shared: Path) -> None:
    other = shared.parent / "other"
    other.mkdir()
    (shared / "link").symlink_to(other)
    assert "does not allow" in data.refused(config(str(shared), shared / "link")).message


def test_a_link_inside_of_the_allowlist_becomes_its_real_path(data: Data, shared: Path) -> None:
    (shared / "link").symlink_to("wiki")
    s = data.load(config(str(shared), shared / "link"))
    assert s.for_group("a").extra_mounts[0].source == str(shared / "wiki")


@pytest.mark.parametrize("name", sorted(SECRET_NAMES - {"docker.sock"}))
def test_directories_with_names_of_secrets_are_refused(data: Data, shared: Path, name: str) -> None:
    (shared / name / "deeper").mkdir(parents=True)
    error = data.refused(config(str(shared), shared / name / "deeper"))
    assert f"{name} is a name of secrets" in error.message
    assert f"{name} lies in it" in data.refused(config(str(shared), shared)).message


def test_the_data_directory_is_never_mounted(data: Data) -> None:
    (data.root / "groups").mkdir()
    for source in (data.root, data.root / "groups", data.root.parent):
        error = data.refused(config(str(data.root.parent), source))
        assert "the data directory" in error.message


@pytest.mark.parametrize("source", ["/", "/etc", "/proc/self", "/dev/shm", "/root", "/sys"])
def test_directories_of_the_host_itself_are_refused(data: Data, source: str) -> None:
    assert "never mounted" in data.refused(config("/", source)).message


def test_a_source_that_is_not_there_or_a_file_is_refused(data: Data, shared: Path) -> None:
    error = data.refused(config(str(shared), shared / "none"))
    assert "cannot be used" in error.message
    (shared / "file").write_text("")
    error = data.refused(config(str(shared), shared / "file"))
    assert "is no directory" in error.message


@pytest.mark.parametrize("source", ["relative", "/srv/../etc", ""])
def test_a_source_is_an_absolute_path(data: Data, source: str) -> None:
    assert "absolute path" in data.refused(config("/srv", source)).message


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "..", ".x", "a b"])
def test_a_mounts_name_is_one_safe_component(data: Data, shared: Path, name: str) -> None:
    error = data.refused(config(str(shared), shared / "wiki", f", name = '{name}'"))
    assert "groups.a.mounts[0].name" in error.message


def test_two_mounts_never_share_a_name(data: Data, shared: Path) -> None:
    wiki = f"{{ source = '{shared}/wiki' }}"
    error = data.refused(
        f"[sandbox]\nmounts_allowlist = ['{shared}']\n[groups.a]\nmounts = [{wiki}, {wiki}]\n"
    )
    assert 'groups.a.mounts[1].name is "wiki" a second time' in error.message


def test_a_directory_whose_own_name_is_unsafe_needs_a_name(data: Data, shared: Path) -> None:
    (shared / "my wiki").mkdir()
    error = data.refused(config(str(shared), shared / "my wiki"))
    assert "groups.a.mounts[0].name" in error.message
    s = data.load(config(str(shared), shared / "my wiki", ", name = 'wiki'"))
    assert s.for_group("a").extra_mounts[0].name == "wiki"
