"""Paths of an orchestrator that runs in a container itself."""

from pathlib import Path, PurePosixPath

import pytest

from runner.errors import ConfigError
from runner.sandbox.engine import ContainerMount
from runner.sandbox.hostpaths import HostPaths, own_container_id, translate

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
IN_A_CONTAINER = f"""\
820 733 0:51 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/X
830 820 254:0 /var/lib/docker/containers/{ID}/resolv.conf /etc/resolv.conf rw - ext4 /dev/vda rw
831 820 254:0 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/vda rw
"""
ON_THE_ENGINE_S_MACHINE = f"""\
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
99 24 0:44 / /var/lib/docker/containers/{OTHER}/mounts/shm rw - tmpfs shm rw
"""
MOUNTS = (
    ContainerMount("/srv/nanokimi", "/data", writable=True),
    ContainerMount("/fast/groups", "/data/groups", writable=True),
    ContainerMount("/srv/docs", "/docs", writable=False),
)


def test_the_own_id_is_found_in_a_container_only():
    assert own_container_id(IN_A_CONTAINER) == ID
    assert own_container_id(ON_THE_ENGINE_S_MACHINE) is None
    assert own_container_id("garbage\n\n a b") is None


def test_podman_s_directory_names_count_too():
    line = f"1 2 0:1 /x/overlay-containers/{ID}/userdata/hosts /etc/hosts rw - tmpfs t rw"
    assert own_container_id(line) == ID


def test_the_longest_mount_wins():
    assert translate(PurePosixPath("/data/run/g"), MOUNTS) == "/srv/nanokimi/run/g"
    assert translate(PurePosixPath("/data/groups/g"), MOUNTS) == "/fast/groups/g"
    assert translate(PurePosixPath("/data"), MOUNTS) == "/srv/nanokimi"


def test_a_path_outside_every_mount_is_refused_with_the_fix():
    with pytest.raises(ConfigError) as e:
        translate(PurePosixPath("/database"), MOUNTS)
    assert "-v " in e.value.hint


def test_a_read_only_mount_serves_reading_only():
    assert translate(PurePosixPath("/docs/a"), MOUNTS, read_only=True) == "/srv/docs/a"
    with pytest.raises(ConfigError):
        translate(PurePosixPath("/docs/a"), MOUNTS)


def test_outside_a_container_paths_stay_as_they_are():
    assert HostPaths().of(Path("/data/x")) == "/data/x"
