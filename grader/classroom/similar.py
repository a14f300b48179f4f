"""Works that are likely copies of each other, found by winnowing.

S. Schleimer, D. Wilkerson, A. Aiken: "Winnowing: Local Algorithms for Document Fingerprinting",
SIGMOD 2003. Each run of K tokens is hashed, and of every W hashes in a row the least is kept, so
that any passage of at least K + W - 1 equal tokens shares a fingerprint, and no passage shorter
than K tokens does. Names, numbers and texts count as the same token whatever they are: who renames
a variable or rewrites a comment changes nothing.
"""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from zlib import crc32

K, W = 20, 12
# A likeness that so many share is the exercise's own, not one student's.
COMMON = 0.3
SMALLEST = 4  # fingerprints in common; a few lines may be alike by chance
Prints = Mapping[int, tuple[int, int]]  # fingerprint -> its first and last line, from 1


@dataclass(frozen=True)
class Pair:
    """Two works and what they have in common.

    Args:
        share: of the smaller one's fingerprints, those that the other has too, from 0 to 1.
        lines: for each of the two, the lines that the other has as well.
    """

    one: str
    other: str
    share: float
    lines: tuple[frozenset[int], frozenset[int]]


def fingerprints(text: str) -> Prints:
    """Return the fingerprints of a program's text; of what is no Python, those of its words."""
    found = list(_tokens(text))
    grams = [
        (crc32("\0".join(word for word, _ in found[n : n + K]).encode("utf-8", "replace")), n)
        for n in range(len(found) - K + 1)
    ]
    chosen: dict[int, tuple[int, int]] = {}
    for n in range(max(1, len(grams) - W + 1)):
        if window := grams[n : n + W]:
            value, place = min(window, key=lambda gram: (gram[0], -gram[1]))
            chosen.setdefault(value, (found[place][1], found[place + K - 1][1]))
    return chosen


def likely(works: Mapping[str, str], starter: str = "", least: float = 0.4) -> list[Pair]:
    """Return the pairs that are alike, the most alike first.

    Args:
        works: the text of each student's work.
        starter: what everybody was given; it is likeness for nobody.
        least: the share from which on a pair is named.
    """
    given = set(fingerprints(starter))
    prints = {name: _without(fingerprints(text), given) for name, text in works.items()}
    prints = {name: _without(p, _common(prints.values())) for name, p in prints.items()}
    found = (_pair(a, b, prints[a], prints[b]) for a, b in _candidates(prints))
    kept = [pair for pair in found if pair.share >= least]
    return sorted(kept, key=lambda pair: (-pair.share, pair.one, pair.other))


def _without(prints: Prints, given: set[int]) -> dict[int, tuple[int, int]]:
    return {value: lines for value, lines in prints.items() if value not in given}


def _common(everybody: Iterable[Prints]) -> set[int]:
    """Return what more than a part of the class has, in a class where that says something."""
    listed = list(everybody)
    counts: dict[int, int] = {}
    for prints in listed:
        for value in prints:
            counts[value] = counts.get(value, 0) + 1
    limit = max(4, COMMON * len(listed))
    return {value for value, count in counts.items() if count > limit}


def _candidates(prints: Mapping[str, Prints]) -> Iterator[tuple[str, str]]:
    """Yield the pairs that have enough in common to be looked at."""
    holders: dict[int, list[str]] = {}
    for name, found in prints.items():
        for value in found:
            holders.setdefault(value, []).append(name)
    shared: dict[tuple[str, str], int] = {}
    for names in holders.values():
        for pair in combinations(sorted(names), 2):
            shared[pair] = shared.get(pair, 0) + 1
    yield from (pair for pair, count in shared.items() if count >= SMALLEST)


def _pair(one: str, other: str, a: Prints, b: Prints) -> Pair:
    both = set(a) & set(b)
    lines = (_lines(a[value] for value in both), _lines(b[value] for value in both))
    return Pair(one, other, len(both) / max(1, min(len(a), len(b))), lines)


def _lines(spans: Iterable[tuple[int, int]]) -> frozenset[int]:
    return frozenset(line for first, last in spans for line in range(first, last + 1))


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Yield (token, line): names, numbers and texts by their kind, the rest as it is."""
    try:
        yield from list(_python(text))
    except (tokenize.TokenError, SyntaxError, ValueError):
        for number, line in enumerate(text.splitlines(), 1):
            yield from ((word, number) for word in re.findall(r"\w+|[^\w\s]", line))


def _python(text: str) -> Iterator[tuple[str, int]]:
    aside = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in aside:
            continue
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            yield "name", token.start[0]
        elif token.type in (tokenize.NUMBER, tokenize.STRING):
            yield tokenize.tok_name[token.type], token.start[0]
        else:
            yield token.string.strip() or tokenize.tok_name[token.type], token.start[0]
