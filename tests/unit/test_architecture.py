"""The map of the code shows what there is, and nothing that is gone."""

import re
from pathlib import Path

import pytest

import runner

ROOT = Path(__file__).parents[2]
MAP = (ROOT / "docs" / "architecture.md").read_text()


def modules(folder: Path) -> set[str]:
    """Names of the modules and packages in a folder."""
    found = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/*.py")}
    return {name for name in found if not name.startswith("__")}


def test_every_part_of_the_house_is_in_both_maps() -> None:
    there = modules(ROOT / "runner")
    first_columns = re.findall(r"^\| (.+?) \|", MAP.split("## One message")[0], re.MULTILINE)
    assert set(re.findall(r"`(?:runner/)?(\w+)(?:\.py)?`", " ".join(first_columns))) == there
    assert runner.__doc__ is not None
    lines = re.findall(r"^    (\w+) {2,}(.+)$", runner.__doc__, re.MULTILINE)
    beside = {name for _, said in lines for name in re.findall(r"; (\w+): ", said)}
    assert {name for name, _ in lines} | beside == there


@pytest.mark.parametrize("package", ["host", "store"])
def test_every_file_is_in_the_map_of_its_package(package: str) -> None:
    table = MAP.split(f"| What | Files of `runner/{package}` |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == modules(ROOT / "runner" / package)
