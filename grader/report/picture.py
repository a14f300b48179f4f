"""The last run as a picture (SVG) that stands alone: the whole run, then one criterion in detail.

Nothing is said by colour alone: each row ends in a word, a wait is a dashed line with its seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from grader.report import Style
from grader.report.card import wrap
from grader.report.document import one_line

LEFT, WIDTH, RIGHT, HEIGHT = 250, 520, 250, 18
ROWS = 40
COLUMNS = 120
LONGEST = 38
CSS = """
svg { color-scheme: light dark; background: #fff; font: 12px system-ui, "Noto Sans",
  "Noto Sans CJK SC", sans-serif; }
text { fill: #1c2330; } .soft { fill: #566170; } .head { font-weight: 600; font-size: 14px; }
path { fill: none; stroke-width: 8; stroke: #566170; } .line { stroke: #d5dbe3; stroke-width: 1; }
.good, .passed { stroke: #1a7f43; } .bad, .failed { stroke: #c0362c; }
.open, .unknown, .blocked { stroke: #8a6d00; } .request { stroke: #2f5fd0; }
.wait { stroke: #8a6d00; stroke-width: 2; stroke-dasharray: 5 3; } .event { stroke: #2f5fd0; }
.fault { stroke: #c0362c; stroke-width: 1; stroke-dasharray: 3 3; }
@media (prefers-color-scheme: dark) { svg { background: #12161d; } text { fill: #e4e9f0; }
  .soft { fill: #a9b2bf; } .line { stroke: #323b48; } path { stroke: #a9b2bf; }
  .good, .passed { stroke: #56cf86; } .bad, .failed, .fault { stroke: #ff8a7d; }
  .open, .unknown, .blocked, .wait { stroke: #e3c25a; } .request, .event { stroke: #8fb0ff; } }
"""


class Picture:
    """Grows from top to bottom."""

    def __init__(self, style: Style) -> None:
        self.style, self.y, self.body = style, 10, []  # type: ignore[var-annotated]

    def text(self, words: str, kind: str = "") -> None:
        """Add a paragraph."""
        for line in wrap(one_line(words), COLUMNS):
            self.y += HEIGHT
            self.put(10, line, kind, baseline=self.y)

    def put(
        self, x: float, words: str, kind: str = "", end: bool = False, baseline: float = 0
    ) -> None:
        """Write a word or two in the row that was begun last."""
        anchor = ' text-anchor="end"' if end else ""
        place = f'x="{x:.0f}" y="{baseline or self.y}" class="{kind}"{anchor}'
        self.body.append(f"<text {place}>{escape(one_line(words))}</text>")

    def row(self, label: str) -> None:
        """Begin a row with its label and its line."""
        self.y += HEIGHT
        short = one_line(label)
        short = short if len(short) <= LONGEST else f"{short[: LONGEST - 1]}…"
        self.put(LEFT - 8, short, "soft", end=True)
        self.stroke(0, WIDTH, "line")

    def stroke(self, begin: float, end: float, kind: str, title: str = "") -> None:
        """Draw from one place of the row to another, both in pixels."""
        width = max(2, round(end - begin))
        path = f"M{LEFT + round(begin)} {self.y - 4}h{width}"
        inside = f"<title>{escape(one_line(title))}</title>" if title else ""
        self.body.append(f'<path class="{kind}" d="{path}">{inside}</path>')

    def whole(self, title: str, description: str) -> str:
        """Return the picture."""
        width, height = LEFT + WIDTH + RIGHT, self.y + HEIGHT
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        named = f'role="img" lang="{self.style.lang}" aria-labelledby="title desc"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {named}>'
        title = f'<title id="title">{escape(one_line(title))}</title>'
        desc = f'<desc id="desc">{escape(one_line(description))}</desc>'
        return "\n".join([head, title, desc, f"<style>{CSS}</style>", *self.body, "</svg>\n"])


def draw(title: str, paragraphs: Sequence[str], parts: Sequence[Any], one: Any, lang: str) -> str:
    """Return the picture of a run.

    Args:
        paragraphs: what is written at its head: what was wanted and seen.
        parts: every criterion's part (grader/story.py); `one` is shown in detail, None for none.
    """
    picture = Picture(Style(lang))
    picture.text(title, "head")
    for paragraph in paragraphs:
        picture.text(paragraph)
    if parts:
        _overview(picture, parts)
    if one is not None:
        _detail(picture, one)
    return picture.whole(title, " ".join(paragraphs))


def _overview(picture: Picture, parts: Sequence[Any]) -> None:
    """Draw the criteria, a row for each, over the time of the whole run."""
    first, last = min(p.began for p in parts), max(p.ended for p in parts)
    scale = WIDTH / max(last - first, 0.001)
    say = picture.style.say
    picture.y += HEIGHT // 2
    picture.text(f"{say('whole_run')}: {last - first:.1f} s", "head")
    for part in parts[:ROWS]:
        picture.row(f"{part.id} ({part.broker})")
        begin, end = ((at - first) * scale for at in (part.began, part.ended))
        picture.stroke(begin, end, part.verdict, f"{part.seconds:.2f} s")
        picture.put(LEFT + WIDTH + 8, f"{say(part.verdict)}, {part.seconds:.2f} s", "soft")
    _more(picture, len(parts) - ROWS)


def _more(picture: Picture, count: int) -> None:
    if count > 0:
        picture.text(picture.style.say("and_more", count=count), "soft")


def _detail(picture: Picture, part: Any) -> None:
    """Draw one criterion: a row for each call, one for each service, faults across all of them."""
    moments = part.moments()
    last = max([part.ended, *(min(m.until or 0, part.ended + part.seconds) for m in moments)])
    scale = WIDTH / max(last - part.began, 0.001)
    picture.y += HEIGHT // 2
    verdict = picture.style.say(part.verdict)
    picture.text(f"{part.id}, {part.broker}: {verdict}, {part.seconds:.2f} s", "head")
    top = picture.y + 4
    for number, call in enumerate(part.calls[:ROWS], 1):
        mine = [m for m in moments if m.number == number]
        _call(picture, call, mine, part.began, part.ended, scale)
    _more(picture, len(part.calls) - ROWS)
    for service in dict.fromkeys(request["service"] for request in part.requests):
        _service(picture, service, part, scale)
    others = [m for m in moments if m.kind == "wait" and not m.number]
    for moment in others[:ROWS]:
        picture.row(moment.words.render(picture.style.lang))
        _wait(picture, moment, part.began, scale)
    _faults(picture, part, scale, top)


def _call(
    picture: Picture, call: Any, moments: Sequence[Any], first: float, last: float, scale: float
) -> None:
    kind = {"SUCCESS": "good", "FAILURE": "bad"}.get(call["state"], "open")
    answer = next(m for m in moments if m.kind == "answer")
    picture.row(f"#{moments[0].number} {call['words']}")
    picture.stroke((call["at"] - first) * scale, (answer.at - first) * scale, kind)
    for moment in moments:
        at = (moment.at - first) * scale
        if moment.kind == "event" and 0 <= at <= WIDTH:
            picture.stroke(at, at + 2, "event", moment.words.render(picture.style.lang))
        elif moment.kind == "wait":
            _wait(picture, moment, first, scale)
    waits = [f"{m.until - m.at:.1f}" for m in moments if m.kind == "wait"]
    said = call["state"] or picture.style.say("no_answer")
    tries = f", {picture.style.say('waits')} {' '.join(waits)} s" if waits else ""
    picture.put(LEFT + WIDTH + 8, f"{said}{tries}"[:LONGEST], "soft")


def _wait(picture: Picture, moment: Any, first: float, scale: float) -> None:
    begin, end = ((at - first) * scale for at in (moment.at, moment.until))
    words = moment.words.render(picture.style.lang)
    picture.stroke(max(0, begin), min(end, WIDTH), "wait", words)


def _service(picture: Picture, service: str, part: Any, scale: float) -> None:
    mine = [request for request in part.requests if request["service"] == service]
    picture.row(f"HTTP {service}")
    codes: dict[str, int] = {}
    for request in mine:
        code = str(request["answered"] or "-")
        codes[code] = codes.get(code, 0) + 1
        begin = (request["at"] - part.began) * scale
        end = min(begin + request["took"] * scale, WIDTH)
        picture.stroke(begin, end, "request" if code[:1] in "23" else "bad", code)
    counts = ", ".join(f"{count} x {code}" for code, count in codes.items())
    picture.put(LEFT + WIDTH + 8, counts[:LONGEST], "soft")


def _faults(picture: Picture, part: Any, scale: float, top: float) -> None:
    for fault in part.faults:
        x = LEFT + round((fault["at"] - part.began) * scale)
        picture.body.append(f'<path class="fault" d="M{x} {top}V{picture.y + 4}"/>')
    for line in _fault_words(picture, part):
        picture.text(line, "soft")


def _fault_words(picture: Picture, part: Any) -> Iterator[str]:
    for fault in part.faults[:10]:
        fields = {"kind": fault["kind"], "at": f"{fault['at'] - part.began:.2f}"}
        yield picture.style.say("fault_at", **fields)
