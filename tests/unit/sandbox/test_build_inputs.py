"""What goes into the image, and when it has to be built again."""

import tarfile
from pathlib import Path

import pytest

from runner.sandbox.base import host_mirror
from runner.sandbox.build import BasePython, stages_of
from runner.sandbox.context import inputs_hash, library_files, pack, source_files
from runner.sandbox.recipe import LABEL_INPUTS, LABEL_RELEASE, agent_recipe, is_stale


def test_the_context_holds_the_agent_and_not_the_host():
    names = set(source_files())
    assert {"runner/agent/__main__.py", "runner/wire/peer.py", "entrypoint.sh"} <= names
    for stranger in ("host", "gateway", "store", "sandbox", "cli", "oauth", "settings/load"):
        assert not any(name.startswith(f"runner/{stranger}") for name in names)


def test_the_same_files_give_the_same_tar(tmp_path: Path):
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "run.sh").write_text("2")
    files = {"x/a.py": tmp_path / "a.py", "run.sh": tmp_path / "run.sh"}
    first = pack(files).getvalue()
    (tmp_path / "a.py").touch()
    assert pack(dict(reversed(files.items()))).getvalue() == first
    with tarfile.open(fileobj=pack(files)) as tar:
        assert {m.name: (m.mode, m.uid, m.mtime) for m in tar} == {
            "run.sh": (0o755, 0, 0),
            "x/a.py": (0o644, 0, 0),
        }


def test_a_changed_file_base_or_version_builds_again(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_text("1")
    first = inputs_hash({"a.py": path}, "base-1", "httpx==1")
    assert inputs_hash({"a.py": path}, "base-1", "httpx==1") == first
    others = {
        inputs_hash({"b.py": path}, "base-1", "httpx==1"),
        inputs_hash({"a.py": path}, "base-2", "httpx==1"),
        inputs_hash({"a.py": path}, "base-1", "httpx==2"),
    }
    path.write_text("2")
    others.add(inputs_hash({"a.py": path}, "base-1", "httpx==1"))
    assert len(others) == 4
    assert first not in others


def test_scripts_of_libraries_stay_out(tmp_path: Path):
    for name in ("httpx/__init__.py", "bin/httpx"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    assert set(library_files(tmp_path)) == {"container/lib/httpx/__init__.py"}


@pytest.mark.parametrize(
    ("answer", "first", "last"),
    [
        ("3 13 x86_64 glibc 2.41", "manylinux_2_41_x86_64", "manylinux2014_x86_64"),
        ("3 12 aarch64 glibc 2.36", "manylinux_2_36_aarch64", "manylinux2014_aarch64"),
        ("3 13 x86_64 musl 1.2", "musllinux_1_2_x86_64", "musllinux_1_1_x86_64"),
    ],
)
def test_wheels_fit_the_base(answer: str, first: str, last: str):
    platforms = BasePython.parse(answer).platforms()
    assert (platforms[0], platforms[-1]) == (first, last)


@pytest.mark.parametrize(
    ("sources", "mirror"),
    [
        ("deb http://mirror.lan/debian bookworm main\n", "http://mirror.lan/debian"),
        ("Types: deb\nURIs: https://m.lan/debian/\nSuites: x", "https://m.lan/debian/"),
        ("deb [signed-by=/k] http://m.lan/debian x main", "http://m.lan/debian"),
        ("# deb http://m.lan/debian x main", None),
        ("deb http://m.lan/debian-security x main", None),
        ("deb http://m.lan/ubuntu x main", None),
        ("", None),
    ],
)
def test_the_host_s_debian_mirror_is_found_in_both_formats(sources: str, mirror: str | None):
    assert host_mirror(sources) == mirror


def test_the_image_in_which_each_stage_but_the_last_ended_is_known():
    classic = [
        "Step 1/6 : ARG BASE_IMAGE=python:3.13-slim",
        "Step 2/6 : FROM ${BASE_IMAGE} AS assembled",
        "---> 80c70c35d6a4",
        "Step 3/6 : COPY a b",
        "---> Using cache",
        "---> 111111111111",
        "Step 4/6 : RUN x",
        "---> Running in 999999999999",
        "---> 222222222222",
        "Step 5/6 : FROM ${BASE_IMAGE}",
        "---> 80c70c35d6a4",
        "Step 6/6 : COPY --from=assembled b b",
        "---> 333333333333",
    ]
    assert stages_of(classic) == ["222222222222"]
    assert stages_of(classic[1:8]) == []


def test_an_image_of_other_files_is_stale_and_one_that_is_not_ours_is_not_judged():
    ours = agent_recipe().labels("base-1")
    assert not is_stale(ours)
    assert not is_stale(agent_recipe().labels("base-2"))  # the base is the operator's choice
    assert is_stale(ours | {LABEL_RELEASE: "another"})
    assert is_stale({LABEL_INPUTS: ours[LABEL_INPUTS]})  # from before there was that label
    assert not is_stale({"maintainer": "somebody"})
