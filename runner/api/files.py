"""Files that agents sent: what there is, and each for download."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import FileResponse

from runner.api.bodies import ErrorOut, FileList, FileOut
from runner.api.routes import GroupIn, HostIn
from runner.errors import NotFoundError, OwnedElsewhereError
from runner.host.filenames import harmless
from runner.host.tools.files import file_json
from runner.store import files

router = APIRouter(
    prefix="/api",
    tags=["files"],
    responses={code: {"model": ErrorOut} for code in (401, 404, 409, 422)},
)

# Whatever the file is: it is saved and not shown, and what would be run in it is not.
_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "cache-control": "private, no-store",
    "cross-origin-resource-policy": "same-origin",
}


@router.get("/groups/{id}/files")
async def list_files(
    host: HostIn, group: GroupIn, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> FileList:
    """Files that the group's agent sent, the newest first."""
    found = await host.store.read(lambda c: files.page(c, group, limit))
    public = host.settings.server.public_url
    return FileList(files=[FileOut.of(f, str(file_json(f, public)["url"])) for f in found])


@router.get("/groups/{id}/files/{file_id}", response_class=FileResponse)
async def get_file(
    host: HostIn, group: GroupIn, file_id: Annotated[str, Path(max_length=100)]
) -> FileResponse:
    """One file, to be saved; 404 when it is not this group's, or not kept any more.

    409 when another host has the group, and the file.
    """
    file = await host.store.read(lambda c: files.need(c, group, file_id))
    known = await host.store.group(group)
    path = host.files.path(known.folder, file.id)
    if not path.is_file():
        if owner := host.owner_elsewhere(known):
            raise OwnedElsewhereError(
                f"the file is not on this host: the group is with another one, {owner}",
                hint="ask that host, or let the hosts share files/ (docs/operations.md)",
            )
        raise NotFoundError("the file is not kept any more")
    return FileResponse(
        path, media_type=harmless(file.media_type), filename=file.name, headers=_HEADERS
    )
