"""Every sentence the grader says, once, in both languages; they live in sentences/*.toml."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LANGUAGES = ("en", "zh")
_FOLDER = Path(__file__).with_name("sentences")


@functools.cache
def catalogue() -> dict[str, dict[str, str]]:
    """Return the whole catalogue: key -> language -> template with {placeholders}."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(_FOLDER.glob("*.toml")):
        found |= tomllib.loads(file.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Text:
    """A sentence that has not been put into a language yet.

    `templates` maps a language to its template; `fields` fill the placeholders. A field may be a
    Text itself and is then rendered in the same language.
    """

    templates: Mapping[str, str]
    fields: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, key: str, /, **fields: object) -> Text:
        """Return the catalogue's sentence `key`; a KeyError here is the grader's own bug."""
        return cls(catalogue()[key], fields)

    @classmethod
    def plain(cls, text: str) -> Text:
        """Return `text` as it is, the same in every language."""
        return cls({"en": "{text}"}, {"text": text})

    def render(self, lang: str) -> str:
        """Return the sentence in `lang`, in English where there is no translation."""
        template = self.templates.get(lang) or self.templates["en"]
        values = {k: v.render(lang) if isinstance(v, Text) else v for k, v in self.fields.items()}
        return template.format(**values)

    def __bool__(self) -> bool:
        return bool(self.templates.get("en"))


NOTHING = Text({"en": ""})
