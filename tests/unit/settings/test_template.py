from __future__ import annotations

import re
import tomllib
from pathlib import Path

from runner.settings.explain import is_table, plain
from runner.settings.load import load_settings
from runner.settings.schema import Settings
from runner.settings.template import render_template

SWITCHED_OFF = re.compile(r"(?m)^#(?=\S)")
DOCS = Path(__file__).parents[3] / "docs" / "configuration.md"


def all_on() -> str:
    return SWITCHED_OFF.sub("", render_template())


def known_keys() -> set[str]:
    """The last name of every key that the schema knows, in all tables."""
    found: set[str] = set()

    def collect(annotation: object) -> None:
        kind = plain(annotation)
        if is_table(kind):
            for name, field in kind.model_fields.items():
                found.add(name)
                collect(field.annotation)
        for inner in getattr(kind, "__args__", ()):
            collect(inner)

    collect(Settings)
    return found


def load(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "config.toml").write_text(text, "utf-8")
    return load_settings(tmp_path, {})


def test_the_template_loads_without_a_warning(tmp_path: Path) -> None:
    s = load(tmp_path, render_template())
    assert s.warnings == ()
    of_group = s.for_group("any")
    assert (of_group.alias, of_group.model.model) == ("kimi-code", "kimi-for-coding")
    assert of_group.provider.oauth is not None
    assert of_group.provider.base_url == "https://api.kimi.com/coding/v1"


def test_the_template_loads_with_every_switched_off_line_on(tmp_path: Path) -> None:
    s = load(tmp_path, all_on())
    assert set(s.models) == {"kimi-code", "kimi-key", "local"}
    assert s.model_list
    assert s.routes
    assert s.groups


def test_each_switched_off_line_is_toml_by_itself() -> None:
    on = all_on().splitlines()
    lines = [on[i] for i, line in enumerate(render_template().splitlines()) if line in ("", on[i])]
    switched = set(on) - set(lines)
    assert len(switched) > 40
    for line in switched:
        assert tomllib.loads(line)


def test_a_switched_off_default_is_the_default(tmp_path: Path) -> None:
    s = load(tmp_path, all_on().replace('mounts_allowlist = ["/srv"]', "mounts_allowlist = []")
             .replace('mounts = [{ source = "/srv"', '# "'))  # fmt: skip
    nothing = Settings()
    for table in ("host", "sandbox", "server", "store", "gateway", "agent", "loop_control"):
        if table == "loop_control":
            assert s.loop_control.retries == nothing.loop_control.retries
        else:
            assert getattr(s, table) == getattr(nothing, table), table


def test_every_key_is_in_the_template() -> None:
    text = all_on()
    missing = {k for k in known_keys() if not re.search(rf"\b{k}\b", text)}
    # Parts of tables that the template shows as a whole, and says so.
    assert missing <= {"base_url", "api_key"}


def test_every_key_is_in_the_documentation() -> None:
    text = DOCS.read_text("utf-8")
    shown = set(re.findall(r"`([a-z_]+)`", text)) | set(re.findall(r"`\[+([a-z_]+)[\].]", text))
    assert known_keys() - shown == set()


def test_the_template_names_no_line_longer_than_a_terminal() -> None:
    assert max(map(len, render_template().splitlines())) <= 100


def test_the_template_says_where_keys_come_from() -> None:
    text = render_template()
    assert "https://platform.kimi.com/" in text
    assert "https://platform.moonshot.cn/" in text
