"""bubblewrap's command line, as data."""

import sys
from pathlib import Path

import runner
from runner.sandbox.bubblewrap import command_line, python_directories
from runner.sandbox.mounts import Mount
from runner.sandbox.spawner import Limits, Network
from runner.sandbox.volumes import Owner


def line(*, network: Network = "isolated", as_root: bool = False) -> list[str]:
    return command_line(
        ["agent", "--flag"],
        mounts=[
            Mount(Path("/d/ws"), "/workspace", read_only=False),
            Mount(Path("/d/config"), "/home/agent/.kimi/config", read_only=True),
        ],
        network=network,
        limits=Limits(memory=1000, cpus=1, pids=77),
        owner=Owner(10001, 10001),
        as_root=as_root,
        info_fd=9,
    )


def pairs(args: list[str], option: str) -> list[tuple[str, str]]:
    return [(args[i + 1], args[i + 2]) for i, word in enumerate(args) if word == option]


def test_an_isolated_sandbox_has_no_network_and_an_open_one_has():
    assert "--unshare-net" in line()
    assert "--unshare-net" not in line(network="open")


def test_only_the_group_s_writable_mounts_are_writable():
    assert pairs(line(), "--bind") == [("/d/ws", "/workspace")]
    assert ("/d/config", "/home/agent/.kimi/config") in pairs(line(), "--ro-bind")


def test_the_root_becomes_read_only_after_everything_is_in_place():
    args = line()
    last_change = max(
        i
        for i, word in enumerate(args)
        if word in ("--bind", "--ro-bind", "--symlink", "--tmpfs", "--dir")
    )
    assert args.index("--remount-ro") > last_change


def test_the_environment_is_cleared_and_holds_four_names():
    args = line()
    assert args.index("--clearenv") < args.index("--setenv")
    assert [name for name, _ in pairs(args, "--setenv")] == [
        "HOME",
        "PATH",
        "LANG",
        "NANOKIMI_RUN_DIR",
    ]


def test_the_agent_is_pid_1_in_a_session_of_its_own():
    assert {"--as-pid-1", "--die-with-parent", "--new-session"} <= set(line())
    assert line()[-2:] == ["agent", "--flag"]
    assert "--nproc=77" in line()


def test_root_is_dropped_before_the_agent_runs():
    args = line(as_root=True)
    after = args[args.index("--") :]
    assert after[after.index("--reuid") + 1] == "10001"
    assert "--bounding-set=-all" in after
    assert "--unshare-user" in line(as_root=False)


def test_python_and_this_package_are_reachable():
    directories = python_directories()
    for needed in (sys.prefix, str(Path(runner.__file__).parent)):
        assert Path(needed).is_relative_to("/usr") or needed in directories
