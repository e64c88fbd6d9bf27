"""A page of blocks and a last line, for verbs that make no report of a compression."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from onnxcompress.render.console import Page, for_people, on_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.render.blocks import Block


class BlocksPage(Page):
    """Where such a verb shows its work."""

    def show(self, blocks: Sequence[Block], last: str) -> None:
        """Show the blocks, unless only the last line is wanted."""
        self.close()
        if not self._quiet:
            self._blocks(blocks)
            self.line("")
        self.line(for_people(last))

    def one(self, page: Sequence[str], line: str) -> None:
        """Show what came of one of several, where no bar does: its page, if it has one, and a line."""
        if not self._quiet and not on_terminal(sys.stderr):
            for shown in (*page, line):
                self.line(for_people(shown))
