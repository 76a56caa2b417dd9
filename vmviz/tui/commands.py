"""The command palette: every action of the main screen, and the themes."""

from __future__ import annotations

from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider

from .keymap import KEYS


class Actions(Provider):
    """Offers each key's action by its sentence."""

    async def discover(self) -> Hits:
        """All actions, before anything is typed."""
        for key in KEYS:
            if key.keys:
                yield DiscoveryHit(
                    key.about, partial(self.app.run_action, key.action), help=f"key {key.shown}"
                )

    async def search(self, query: str) -> Hits:
        """The actions that match."""
        matcher = self.matcher(query)
        for key in KEYS:
            score = matcher.match(f"{key.word}: {key.about}")
            if key.keys and score > 0:
                text = matcher.highlight(f"{key.word}: {key.about}")
                yield Hit(score, text, partial(self.app.run_action, key.action), help=f"key {key.shown}")
