"""A step tree to look at: as text for the terminal, and as one self-contained SVG.

Steps that follow one another without a branch stand below each other; only branches are indented.
Before each step stands how many of the counted chains ended well from there. Model text is data:
control characters are shown, and what SVG reads as markup is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from rich.text import Text
from rich.tree import Tree

from rightcall.chain import Chain
from rightcall.terminal import printable
from rightcall.tree import Node, StepTree

MAX_REPLY = 64
MAX_OBSERVATION = 28


@dataclass(frozen=True)
class Row:
    """A step on a line of its own."""

    node: Node
    indent: int
    """Branches between the root and here."""
    first_error: bool
    """It is the first one of a wrong chain that is known not to be recovered from."""
    judged_wrong: bool
    """The task judges this step to be wrong."""

    def __str__(self) -> str:
        step = self.node.step
        if step is None:
            return "prompt"
        return f"{shortened(step.reply, MAX_REPLY)}"

    @property
    def observation(self) -> str:
        step = self.node.step
        return shortened(step.observation.text, MAX_OBSERVATION) if step else ""

    @property
    def counts(self) -> str:
        return f"{self.node.ended_well}/{self.node.counted}"

    @property
    def marks(self) -> str:
        made = ["first error"] if self.first_error else []
        return ", ".join(made + (["judged wrong"] if self.judged_wrong else []))


def shortened(text: str, limit: int) -> str:
    """One printable line.

    >>> shortened("add(1,\\n 2) and more", 12)
    'add(1, 2) a…'
    """
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def rows(tree: StepTree[Chain], tries: int = 4) -> Iterator[Row]:
    """Every node, parents before children, the branch that most chains took first."""
    errors = {node.index for key in tree.paths if (node := tree.first_error(key, tries)) is not None}
    wrong = {
        path[step + 1]
        for key, path in tree.paths.items()
        for step in tree.chains[key].judgement.wrong_steps
        if step + 1 < len(path)
    }
    waiting = [(tree.root, 0)]
    while waiting:
        node, indent = waiting.pop()
        yield Row(node, indent, node.index in errors, node.index in wrong)
        children = sorted(tree.children(node), key=lambda n: (len(n.chains), n.value, -n.index))
        waiting += [(child, indent + (len(children) > 1)) for child in children]


def tree_text(tree: StepTree[Chain], tries: int = 4) -> Tree:
    """For the terminal."""
    top: Tree | None = None
    open_branches: list[tuple[int, Tree]] = []
    for row in rows(tree, tries):
        line = _line(row)
        if top is None:
            top = Tree(line, guide_style="dim")
            open_branches = [(0, top)]
            continue
        if row.node.parent is not None and len(tree.nodes[row.node.parent].children) == 1:
            label = open_branches[-1][1].label
            assert isinstance(label, Text)
            label.append("\n").append_text(line)
            continue
        while open_branches[-1][0] >= row.indent:
            open_branches.pop()
        open_branches.append((row.indent, open_branches[-1][1].add(line)))
    assert top is not None
    return top


def _line(row: Row) -> Text:
    made = Text.assemble((f"{row.counts:>6} ", _style(row.node)), (str(row), "bold"))
    if row.observation:
        made.append(f" → {row.observation}", "dim")
    if row.marks:
        made.append(f"  ◀ {row.marks}", "red")
    return made


def _style(node: Node) -> str:
    return "dim" if not node.counted else "green" if node.ended_well == node.counted else (
        "yellow" if node.ended_well else "red"
    )  # fmt: skip


# --- SVG ----------------------------------------------------------------------------------------

_ROW, _INDENT, _PILL, _MARGIN, _WIDTH = 22, 22, 44, 14, 960


def tree_svg(tree: StepTree[Chain], title: str, tries: int = 4) -> str:
    """One picture without scripts, fonts or links; it reads on a light and on a dark page."""
    lines = list(rows(tree, tries))
    place = {row.node.index: _place(number, row) for number, row in enumerate(lines)}
    drawn = [
        _edge(place[row.node.parent], place[row.node.index])
        for row in lines
        if row.node.parent is not None
    ]
    drawn += [_drawn(row, *place[row.node.index]) for row in lines]
    height = _MARGIN * 2 + 26 + _ROW * len(lines)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" role="img" font-size="12">',
            f"<title>{escape(printable(title))}</title>",
            f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff" stroke="#d0d7de"/>',
            f'<text x="{_MARGIN}" y="{_MARGIN + 12}" font-family="sans-serif" font-size="14" '
            f'font-weight="bold" fill="#1f2328">{escape(shortened(title, 120))}</text>',
            *drawn,
            "</svg>\n",
        ]
    )


def _place(number: int, row: Row) -> tuple[int, int]:
    """Left end and middle of a row."""
    return _MARGIN + row.indent * _INDENT, _MARGIN + 26 + number * _ROW + _ROW // 2


def _edge(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x0, y0), (x1, y1) = start, end
    down = f"M{x0 + 8} {y0 + 8}V{y1}" if x1 > x0 else f"M{x0 + 8} {y0 + 8}V{y1 - 8}"
    across = f"H{x1}" if x1 > x0 else ""
    return f'<path d="{down}{across}" fill="none" stroke="#8c959f"/>'


def _drawn(row: Row, x: int, y: int) -> str:
    text_x = x + _PILL + 8
    marks = (
        f'<tspan fill="#cf222e" font-weight="bold">  ◀ {escape(row.marks)}</tspan>' if row.marks else ""
    )
    said = f'<tspan fill="#59636e"> → {escape(row.observation)}</tspan>' if row.observation else ""
    return (
        f'<rect x="{x}" y="{y - 8}" width="{_PILL}" height="16" rx="8" fill="{_colour(row.node)}"/>'
        f'<text x="{x + _PILL // 2}" y="{y + 4}" text-anchor="middle" font-family="sans-serif" '
        f'font-size="11" fill="#ffffff">{row.counts}</text>'
        f'<text x="{text_x}" y="{y + 4}" font-family="monospace" fill="#1f2328" '
        f'xml:space="preserve">{escape(str(row))}{said}{marks}</text>'
    )


def _colour(node: Node) -> str:
    """Red over amber to green by value; grey where no chain counts."""
    if not node.counted:
        return "#8c959f"
    low, middle, high = (207, 34, 46), (154, 103, 0), (26, 127, 55)
    first, second, part = (
        (low, middle, node.value * 2) if node.value < 0.5 else (middle, high, node.value * 2 - 1)
    )
    mixed = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)
