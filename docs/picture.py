"""Make the README's picture from the real app: ``python docs/picture.py`` writes docs/vmviz.svg."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from vmviz.session.story import story_session
from vmviz.tui.app import VmvizApp

HERE = Path(__file__).parent
SIZE = (120, 40)


async def picture(steps: int, out: Path) -> None:
    """The story's first zap, ``steps`` steps into it, as an SVG."""
    app = VmvizApp(story_session(), ascii_glyphs=False, theme="vmviz-dark")
    async with app.run_test(size=SIZE) as pilot:
        director = app.director
        director.instant = True
        director.run_next()
        director.move("statement", -1)
        director.move("step", steps)
        app.show()
        await pilot.pause()
        svg = app.export_screenshot(title="vmviz")
    # the fonts of the reader's machine will do: the file needs nothing from elsewhere
    out.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(picture(394, HERE / "vmviz.svg"))
