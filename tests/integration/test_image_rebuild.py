"""A rebuilt image leaves nothing behind, and one of another release is seen."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import invoke
from rig import rig
from structlog.testing import capture_logs

from runner.sandbox import recipe
from runner.sandbox.build import build_image
from runner.sandbox.context import source_files
from runner.sandbox.engine import Engine

pytestmark = pytest.mark.docker

LABEL = "nanokimi-test"
SOON = "-2s"  # older than in two seconds: also what was made just now


class Images:
    """Images of one test, all with a label of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.label = f"{LABEL}={secrets.token_hex(8)}"

    async def call(self, what: Callable[[Any], Any]) -> Any:
        return await self.engine.run("test", what)

    async def made(self, name: str = "") -> str:
        """A new image of nearly nothing."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(secrets.token_hex(8)))
        labels = [f"LABEL {self.label}", "CMD /none"]
        answer = await self.call(
            lambda a: a.import_image_from_data(
                buffer.getvalue(), repository=name or None, changes=labels
            )
        )
        return str(json.loads(answer)["status"])

    async def left(self) -> set[str]:
        found = await self.call(lambda a: a.images(filters={"label": self.label}))
        return {str(i["Id"]) for i in found}


async def images_of(work: Callable[[Images], Any]) -> None:
    engine = await Engine.connect()
    try:
        images = Images(engine)
        try:
            await work(images)
        finally:
            for image in await images.left():
                await images.call(lambda a, i=image: a.remove_image(i, force=True))
    finally:
        await engine.close()


async def test_only_an_image_without_a_name_and_of_which_nothing_is_made_is_removed(
    docker_engine: str,
) -> None:
    del docker_engine

    async def work(images: Images) -> None:
        engine = images.engine
        plain, named, used = (
            await images.made(),
            await images.made(f"nanokimi-test-{secrets.token_hex(4)}"),
            await images.made(),
        )
        container = await engine.create(f"nanokimi-test-{secrets.token_hex(4)}", {"Image": used})
        try:
            for image in (plain, named, used, "nanokimi-no-such-image"):
                await engine.remove_if_unused(image)
            assert await images.left() == {named, used}
            another = await images.made()
            await engine.prune_images(images.label, older_than="1h")
            assert await images.left() == {named, used, another}
            await engine.prune_images(images.label, older_than=SOON)
            assert await images.left() == {named, used}
        finally:
            await engine.remove(container)
        await engine.prune_images(images.label, older_than=SOON)
        assert await images.left() == {named}

    await images_of(work)


@pytest.fixture
def new_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes this a release with other files; the image's first stage gets the label."""
    ours = source_files()

    def other(label: str) -> None:
        name, path = "container/Dockerfile", tmp_path / secrets.token_hex(8)
        stage, copied, rest = ours[name].read_text().partition("AS assembled\n")
        path.write_text(f"{stage}{copied}LABEL {label}\nLABEL again={path.name}\n{rest}")
        monkeypatch.setattr(recipe, "source_files", lambda: ours | {name: path})
        recipe._our_release.cache_clear()

    yield other
    recipe._our_release.cache_clear()


@pytest.mark.timeout(300)  # two builds
async def test_a_new_release_sees_the_old_image_and_its_build_leaves_nothing_of_it(
    docker_engine: str, new_release: Callable[[str], None], tmp_path: Path
) -> None:
    del docker_engine

    async def work(images: Images) -> None:
        engine, tag = images.engine, f"nanokimi-test-{secrets.token_hex(4)}"
        new_release(images.label)
        first = await asyncio.to_thread(build_image, tag=tag)
        try:
            assert await images.left() == set()  # the stage has gone
            with capture_logs() as logs:
                async with rig(tmp_path, backend="docker", image=tag):
                    assert "image.stale" not in events(logs)
            assert (await checked(tmp_path))["image"]["grade"] == "pass"

            new_release(images.label)
            with capture_logs() as logs:
                async with rig(tmp_path, backend="docker", image=tag):
                    assert events(logs).count("image.stale") == 1
            found = (await checked(tmp_path))["image"]
            assert (found["grade"], found["fix"]) == ("warn", "run `nanokimi build`")

            second = await asyncio.to_thread(build_image, tag=tag)
            assert (second.built, second.image_id == first.image_id) == (True, False)
            assert await engine.image(first.image_id) is None
            assert await images.left() == set()
            assert (await checked(tmp_path))["image"]["grade"] == "pass"
            assert (await asyncio.to_thread(build_image, tag=tag)).built is False
        finally:
            await images.call(lambda a: a.remove_image(tag))

    await images_of(work)


def events(logs: list[Any]) -> list[str]:
    return [str(entry["event"]) for entry in logs]


async def checked(tmp_path: Path) -> dict[str, Any]:
    done = await asyncio.to_thread(invoke, tmp_path / "data", "doctor", "--json")
    return {c["name"]: c for c in json.loads(done.stdout)}
