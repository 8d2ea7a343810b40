"""Trees of another installation are copied as they are."""

import os
from pathlib import Path

from runner.host.takeover.tree import copy_tree


def test_a_file_of_holes_stays_small(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    size = 1 << 40
    with (source / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(1 << 30)
        file.write(b"middle")
        file.truncate(size)
    (source / "plain").write_bytes(b"words\0" * 1000)
    fds = [os.open(d, os.O_RDONLY | os.O_DIRECTORY) for d in (source, target)]
    try:
        copy_tree(fds[0], fds[1])
    finally:
        for fd in fds:
            os.close(fd)
    copied = target / "sparse"
    assert copied.stat().st_size == size
    assert copied.stat().st_blocks * 512 < 1 << 20
    with copied.open("rb") as file:
        assert file.read(5) == b"head\0"
        file.seek(1 << 30)
        assert file.read(6) == b"middle"
    assert (target / "plain").read_bytes() == b"words\0" * 1000
