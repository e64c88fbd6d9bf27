"""The frame of an HTML page: one file that opens without a network.

Names come from the model and are hostile: all text is escaped, and the page's policy lets no script run but its own,
which it knows by the hash.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from onnxcompress.render.html_blocks import text

if TYPE_CHECKING:
    from collections.abc import Iterable


def document(title: str, body: Iterable[str]) -> str:
    """A whole page; ``body`` is HTML already."""
    shown = "\n".join(body)
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{text(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{shown}
</main>
<script>
{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("onnxcompress.render").joinpath(name).read_text(encoding="utf-8")
