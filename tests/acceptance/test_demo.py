"""The demo is the product in one command: it must hold on every backend."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("backend", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_every_step_of_the_demo_holds(backend: str, request: pytest.FixtureRequest) -> None:
    if backend == "docker":
        request.getfixturevalue("docker_engine")
    shown = subprocess.run(
        [sys.executable, "-m", "runner", "demo", "--backend", backend],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "Every step held" in shown.stdout
    assert f"Sandbox: {backend}" in shown.stdout
    assert shown.stderr == ""


def test_a_backend_that_is_not_there_is_said_so() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "runner", "demo", "--backend", "cloud"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.returncode != 0
    assert "docker or process" in shown.stdout
