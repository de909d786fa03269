"""The page at `/`: it lists the tasks and tries a prediction, with nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

_FILES = Path(__file__).with_name("static")
# Were a label ever taken for markup, it could still run nothing.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter(include_in_schema=False)
files = StaticFiles(directory=_FILES)


@router.get("/")
async def page() -> FileResponse:
    """The page itself."""
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
    return FileResponse(_FILES / "index.html", headers=headers)
