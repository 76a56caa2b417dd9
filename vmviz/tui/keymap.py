"""The keys of the main screen: one table for bindings, key bar, palette and help."""

# The table is read by its columns.

from __future__ import annotations

import attrs
from textual.binding import Binding

from ..kernel.value import Value


@attrs.frozen(eq=False, repr=False)
class Key(Value):
    """One key: Textual's name for it, what the key bar prints, a word, a sentence, its action, and when it is shown.

    ``when``: words of the moments at which the key bar shows it ("idle", "playing", "inside", "refused").  Where there
    is no room for all of them, those with the greatest ``spare`` go first, and then those at the right.
    """

    id: str
    keys: str
    shown: str
    word: str
    about: str
    action: str
    when: tuple[str, ...] = ()
    spare: int = 0


KEYS = (
    Key("zap", "z", "z", "zap", "Open the zap form, filled from the selection", "zap", ("idle",)),
    Key("select", "v", "v", "select", "Begin or end a selection at the cursor; shift+arrows select too", "select", ("idle",)),
    Key("select_vma", "V", "V", "select VMA", "Select the whole VMA under the cursor", "select_vma"),
    Key("touch", "t", "t", "touch", "Read the page under the cursor, as the process would", "touch('load')", ("idle",)),
    Key("write", "w", "w", "write", "Write to the page under the cursor, as the process would", "touch('store')"),
    Key("play", "space", "space", "play", "Play, or pause", "play", ("idle", "inside")),
    Key("pause", "", "space", "pause", "Pause", "play", ("playing",)),
    Key("back", "comma", ",", "step back", "One entry back", "move('step', -1)"),
    Key("step", "full_stop", ", .", "step", "One entry forward", "move('step', 1)", ("idle", "inside", "playing")),
    Key("call_back", "left_square_bracket", "[", "call back", "To the previous border of a call", "move('call', -1)"),
    Key("call", "right_square_bracket", "[ ]", "call", "To the next border of a call", "move('call', 1)", ("idle", "inside"), 3),
    Key("function_back", "left_curly_bracket", "{", "function back", "To the end of the function before", "move('function', -1)"),
    Key("function", "right_curly_bracket", "{ }", "function", "To the end of the running function", "move('function', 1)", ("inside",)),
    Key("finish", "enter", "Enter", "to the end", "Finish the statement; run the nearest legal call of a refused one", "enter", ("inside", "playing")),
    Key("slower", "less_than_sign", "<", "slower", "Play slower", "speed(-1)"),
    Key("faster", "greater_than_sign", "< >", "slower/faster", "Play faster", "speed(1)", ("playing",)),
    Key("instant", "I", "I", "instant", "Show results at once, without playing; again to play", "instant"),
    Key("undo", "u", "u", "back", "Take the last statement back", "move('statement', -1)", ("idle", "inside", "playing")),
    Key("redo", "r,ctrl+r", "r", "redo", "Do the statement that was taken back again", "move('statement', 1)"),
    Key("next", "n", "n", "next", "Run the next statement of the story", "next", ("idle",)),
    Key("find", "slash", "/", "find", "Go to an address, a name, or a frame (pfn e0000)", "find", ("idle",), 2),
    Key("command", "colon", ":", "type", "Type a statement", "command", ("idle",)),
    Key("copy", "y", "y", "copy", "Copy the statement as text", "copy", ("idle",), 4),
    Key("readable", "a", "a", "addresses", "Addresses as fb+1M, or in hex", "readable"),
    Key("edit", "e", "e", "edit", "Edit the refused call in the form", "zap"),
    Key("clear", "escape", "Esc", "back", "Drop the selection, or leave the refused call", "clear", (), 1),
    Key("help", "question_mark", "?", "help", "Explain the focused pane and what is under the cursor", "help", ("idle", "inside", "playing"), -1),
    Key("conform", "f4", "F4", "compare", "Compare the simulator with recordings of a real kernel", "conform"),
    Key("theme", "f2", "F2", "theme", "Next theme", "next_theme"),
    Key("quit", "q", "q", "quit", "Quit", "quit"),
)  # fmt: skip


def bindings() -> list[Binding]:
    """Textual's bindings for the keys."""
    return [
        Binding(k.keys, k.action, k.about, show=False, id=k.id, priority=k.id == "finish")
        for k in KEYS
        if k.keys
    ]


def bar(moment: str, columns: int = 1000) -> list[tuple[str, str, str]]:
    """What a key bar of so many columns shows at a moment: ``(key, word, action)``.

    >>> bar("playing")[0]
    ('space', 'pause', 'play')
    >>> [key for key, _, _ in bar("idle", 30)]
    ['z', 'v', '?']
    """
    if moment == "overlay":  # the keys are those of the screen above
        return []
    if moment == "selecting":
        words = [("v", "ends", "select"), ("z", "zaps", "zap"), ("Esc", "drops it", "clear")]
        while words and sum(len(k) + 1 + len(w) for k, w, _ in words) + gap(columns) * len(words) > columns:
            words.pop()
        return words
    shown = [k for k in KEYS if moment in k.when or (moment == "refused" and "idle" in k.when)]
    while (
        shown
        and 1 + sum(len(k.shown) + 1 + len(k.word) for k in shown) + gap(columns) * (len(shown) - 1) > columns
    ):
        # The last of those that can best be spared.
        worst = max(range(len(shown)), key=lambda i: (shown[i].spare, i))
        del shown[worst]
    return [(k.shown, k.word, k.action) for k in shown]


def gap(columns: int) -> int:
    """The blanks between two keys of the key bar."""
    return 2 if columns < 100 else 3
