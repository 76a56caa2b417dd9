"""What the app says in a line: notices in the key bar's place, so that they cover nothing that is to be read."""

from __future__ import annotations

from typing import Any

from textual import events

from .layout import SceneContainer, SceneLayout
from .strips import KeyBar
from .themed import Themed


class Saying(Themed):
    """The part of the app that shows notices and places the main screen's widgets again."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._layout = SceneLayout()
        self._said: KeyBar | None = None

    def _place_again(self) -> None:
        self.screen_stack[0].query_one(SceneContainer).place_again()

    def _lay_out_notice(self, rows: int) -> None:
        if self._layout.notice != rows:
            self._layout.notice = rows
            self._place_again()

    def _say(self, text: str, role: str = "warn") -> None:
        """Show a notice in the key bar's place until the next key: nothing that is to be read may be covered."""
        bar = self._said = self.screen_stack[0].query_one(KeyBar)
        self._lay_out_notice(bar.say(text, role, self.size.width))

    async def on_event(self, event: events.Event) -> None:
        """A notice has been read when the next key comes, or the mouse is pressed elsewhere."""
        bar = self._said
        if (
            bar is not None
            and isinstance(event, events.Key | events.MouseDown)
            and not event.is_forwarded
            and (isinstance(event, events.Key) or event.y < bar.region.y)
        ):
            self._said = None
            bar.unsay()
            self._lay_out_notice(0)
        if not (isinstance(event, events.Key) and not event.is_forwarded and await self._answered(event.key)):
            await super().on_event(event)

    async def _answered(self, _key: str) -> bool:
        """Do at once what a key means; false where it goes the usual way, through the queues of the widgets."""
        return False
