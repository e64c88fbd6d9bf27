"""The page of a ranking of layers on a terminal; the lines to paste are not wrapped, whatever its width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.render import ranking
from onnxcompress.render.console import Page

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.search.sensitivity import Sensitivity


class RankingPage(Page):
    """Where `sensitivity` shows its work."""

    def ranking(self, found: Sensitivity, path: Path, top: int) -> None:
        """Show the table, the lines to paste, and the last line."""
        self.close()
        if not self._quiet:
            self._blocks(ranking.blocks(found, None if self._verbose else top))
            for line in ("", *ranking.pasted(found)):
                self.line(line)
            if found.exclude:
                self.line("")
        self.line(ranking.closing(found, path))
