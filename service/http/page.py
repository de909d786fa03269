"""The page at `/`: it lists the tasks and tries a prediction, with nothing from elsewhere."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

_FILES = Path(__file__).with_name("static")
# Were a label ever taken for markup, it could still run nothing.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# The reader of the API's description comes from where FastAPI takes it, and only there.
_READER = "https://cdn.jsdelivr.net"

router = APIRouter(include_in_schema=False)
files = StaticFiles(directory=_FILES)


@router.get("/")
async def page() -> FileResponse:
    """The page itself."""
    return FileResponse(_FILES / "index.html", headers={"Content-Security-Policy": _POLICY})


@router.get("/docs")
async def docs() -> HTMLResponse:
    """The API to read and to try; its reader is not served here, so that needs the internet."""
    answer = get_swagger_ui_html(
        openapi_url="/openapi.json", title="protuning", swagger_favicon_url="data:,"
    )
    (script,) = re.findall(rb"<script>(.*?)</script>", answer.body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    answer.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src {_READER} 'sha256-{digest}'; style-src {_READER} "
        "'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return answer
