"""The student's progress as one page of HTML: no script, nothing from elsewhere, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from grader.report import Style

CSS = """
:root { color-scheme: light dark; --text: #1c2330; --soft: #566170; --page: #fff; --line: #d5dbe3;
  --bar: #e6eaf0; --good: #1a7f43; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e9f0; --soft: #a9b2bf; --page: #12161d;
  --line: #323b48; --bar: #2a323d; --good: #56cf86; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } p { margin: .4rem 0 1.2rem; color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; } thead th { white-space: nowrap; }
.bar { display: block; width: 8rem; height: .5rem; background: var(--bar); }
.bar i { display: block; height: 100%; background: var(--good); }
"""


def page(
    title: str, summary: str, rows: Sequence[Sequence[str]], shares: Sequence[float], style: Style
) -> str:
    """Return the page.

    Args:
        rows: the table; the first row is the heading, the first cell of the others names the row.
        shares: of each other row, how much of the core is done, from 0 to 1; a bar shows it too.
    """
    lang = "zh-CN" if style.lang == "zh" else style.lang
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "\n".join(_row(row, share) for row, share in zip(rows[1:], shares, strict=True))
    return f"""<!doctype html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p>{escape(summary)}</p>
<div class="wide" role="region" tabindex="0" aria-label="{escape(title)}">
<table>
<caption>{escape(title)}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
</main>
</body>
</html>
"""


def _row(row: Sequence[str], share: float) -> str:
    """Return a row; the bar says nothing that the words beside it don't."""
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
    bar = f'<span class="bar" aria-hidden="true"><i style="width: {share:.0%}"></i></span>'
    return f'<tr><th scope="row">{escape(row[0])}{bar}</th>{cells}</tr>'
