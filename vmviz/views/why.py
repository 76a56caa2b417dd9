"""The why strip: what has just happened and for which reason, in the kernel's order and in our words.

Here is what it says before there is anything to explain; `vmviz.views.reasons` explains.
"""

from __future__ import annotations

from ..session.session import Session
from .cells import Line
from .scene import Scene
from .strip import Strip, paragraphs
from .vma_index import VmaIndex


def why(session: Session, scene: Scene, width: int, height: int, *, playing: bool = False) -> Strip:
    """The strip for the moment at which the session stands."""
    moment = session.current
    if moment is None or (session.at_story_start and session.inside is None):
        return _opening(session, width, height)
    from .reasons import reasons  # calls and their explanations: before the first statement there are none

    return reasons(session, scene, moment, width, height, playing=playing)


def _opening(session: Session, width: int, height: int) -> Strip:
    n = len(session.pending) + len(session.future)
    keys: Line = [(" z", "key"), (" zap a range", "key.text")]
    if n:
        words = "run the next step of the story" if width >= 80 else "next step"
        keys += [("    n", "key"), (f" {words} ({n} to come)", "key.text")]
    keys += [("    ?", "key"), (" what is this", "key.text")]
    if session.remarks:
        text = session.remarks[0]
    elif session.title.startswith("framebuffer"):
        text = (
            "A camera maps its frame buffer: 8M of device memory behind 2048 PTEs. "
            "The kernel can take PTEs away and leave the VMA standing: zap_vma_ptes."
        )
    else:
        pf = VmaIndex.of(session.machine.mm).pfnmaps
        text = (
            f"{session.machine.task.comm}: {len(session.machine.mm.vmas)} VMAs, {pf} of them VM_PFNMAP, "
            f"the kind that "
            "zap_vma_ptes accepts. Move to one, select a range, press z."
        )
    lines = paragraphs(width, max(1, height - 1), (text, "text"))
    if height > 5:
        lines.append([])
    return Strip("Why", "", [*lines[: height - 1], keys])
