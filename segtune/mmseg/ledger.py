"""What became of every key of a config: carried over, the same in segtune, or not carried over.

Knows no key: the mapping files do.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_origin

from pydantic import ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from segtune.config.schema import ExperimentConfig
from segtune.mmseg.nodes import Node, Place, Unresolved, children

Group = Literal["carried", "same", "left"]
SEVERITY: dict[Group, int] = {"same": 0, "carried": 1, "left": 2}
STEP = re.compile(r"[.\[]")  # where a part of a key ends
NO_RULE = "segtune has no setting for it"


@dataclass(frozen=True)
class Entry:
    """What became of one key and everything below it."""

    key: str
    place: Place
    group: Group
    text: str  # the settings, or the reason
    changes_numbers: bool = False


@dataclass
class Ledger:
    """The entries by key, and the settings of segtune by dotted name."""

    entries: dict[str, Entry] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    notes_change_numbers: bool = False
    remarks: dict[str, str] = field(default_factory=dict)  # of keys that are carried over
    owners: dict[str, str] = field(default_factory=dict)  # {setting: the key that has set it}

    def add(self, entry: Entry) -> None:
        """Add an entry. If the key has one, the more severe one stays, with both texts."""
        earlier = self.entries.get(entry.key)
        if earlier is None:
            self.entries[entry.key] = entry
            return
        first = earlier if SEVERITY[earlier.group] >= SEVERITY[entry.group] else entry
        texts = list(dict.fromkeys((earlier.text, entry.text)))
        if earlier.group != entry.group:
            texts = [first.text]
        changes = earlier.changes_numbers or entry.changes_numbers
        self.entries[entry.key] = Entry(
            entry.key, first.place, first.group, "; ".join(texts), changes
        )

    def of_group(self, group: Group) -> list[Entry]:
        """Return the entries of a group, in the order in which they were added."""
        return [entry for entry in self.entries.values() if entry.group == group]

    def note(self, text: str, *, changes_numbers: bool = False) -> None:
        """Add a note that belongs to no key; a second one with the same text is left out."""
        self.notes_change_numbers |= changes_numbers
        if text not in self.notes:
            self.notes.append(text)

    def settle(self, root: Node) -> None:
        """Give every leaf exactly one entry, its own or that of the nearest key above it.

        An entry of a key with other entries below it moves down to the leaves that have none. If
        all have one, an entry that is not carried over stays: it must not vanish. A leaf without
        any entry is not carried over.
        """
        inner = {key[: match.start()] for key in self.entries for match in STEP.finditer(key)}
        settled: dict[str, Entry] = {}
        moved: set[str] = set()  # the keys of the entries that are now those of leaves
        for key, node, entry in self._settled(root, "", None, inner):
            settled[key] = replace(entry, key=key, place=node.place)
            if entry.key != key:
                moved.add(entry.key)
        for key, entry in self.entries.items():
            if key in inner and key not in moved and entry.group == "left":
                settled.setdefault(key, entry)
        self.entries = settled

    def _settled(
        self, node: Node, key: str, above: Entry | None, inner: Container[str]
    ) -> Iterator[tuple[str, Node, Entry]]:
        """Yield the entries of a value and its parts; `above` is the entry that moves down."""
        entry = self.entries.get(key, above)
        parts = list(children(node, key))
        if entry and (key not in inner or not parts):
            yield key, node, entry
        elif not parts and key:
            reason = f"not known: {node.unresolved}" if node.unresolved else NO_RULE
            yield key, node, Entry(key, node.place, "left", reason, changes_numbers=True)
        else:
            for name, part in parts:
                yield from self._settled(part, name, entry, inner)


@dataclass(frozen=True)
class Ref:
    """A value of the config with its key, and the ledger that it is reported to."""

    key: str
    node: Node
    ledger: Ledger

    def get(self, name: str) -> Ref | None:
        """Return an entry of a dict; None if it is absent or None."""
        found = self.node.value.get(name) if isinstance(self.node.value, dict) else None
        if found is None:
            return None
        ref = Ref(f"{self.key}.{name}" if self.key else name, found, self.ledger)
        if found.value is None:
            ref.same("not set")
            return None
        return ref

    def first(self, *names: str) -> Ref | None:
        """Return the first of several entries that is there."""
        return next((ref for name in names if (ref := self.get(name))), None)

    def parts(self) -> dict[str, Ref]:
        """Return the entries of a dict by name; empty for other values."""
        names = self.node.value if isinstance(self.node.value, dict) else ()
        return {name: ref for name in names if (ref := self.get(name))}

    def items(self) -> list[Ref]:
        """Return the items of a list; the value itself if it is a dict."""
        if isinstance(self.node.value, dict):
            return [self]
        if not isinstance(self.node.value, list):
            return []
        return [
            Ref(f"{self.key}[{index}]", item, self.ledger)
            for index, item in enumerate(self.node.value)
        ]

    @property
    def is_dict(self) -> bool:
        """Whether this is a dict."""
        return isinstance(self.node.value, dict)

    @property
    def plain(self) -> Any:
        """The value as plain dicts and lists."""
        return self.node.plain

    @property
    def type(self) -> str:
        """The name in `type`, without package; "" if there is none."""
        found = self.node.value.get("type") if self.is_dict else None
        if found is None:
            return ""
        name = found.unresolved.name if found.unresolved else found.value
        return str(name or "").rpartition(".")[2]

    def value(self, name: str, default: Any) -> Any:
        """Return the plain value of an entry; `default` if it is absent or None.

        An entry of another type than `default` is reported, and the default returned.
        """
        ref = self.get(name)
        if ref is None:
            return default
        if ref.node.unresolved:
            ref.leave("the value is needed")
            return default
        if default is not None and not is_like(ref.plain, default):
            ref.leave(f"expected a value such as {_shown(default)}; got {_shown(ref.plain)}")
            return default
        return ref.plain

    def carry(
        self, settings: Mapping[str, Any], remark: str = "", *, replace: bool = False
    ) -> None:
        """Set settings of segtune; `remark` says what is not exactly the same.

        If another key has set one to another value, this key is not carried over, except with
        `replace`.
        """
        owners = self.ledger.owners
        for name, value in settings.items():
            problem = self._problem(name, value)
            earlier = self.ledger.settings.get(name)
            owner = owners.setdefault(name, self.key) if not problem else self.key
            if owner != self.key and not replace and earlier != value:
                problem = f"segtune has one {name}: {_shown(earlier)}, from {owner}"
            if problem:
                self.leave(problem)
                continue
            self.ledger.settings[name] = value
            self._add("carried", f"{name}: {_shown(value)}")
        if remark and self.ledger.entries[self.key].group == "carried":
            self.ledger.remarks[self.key] = remark

    def _problem(self, name: str, value: Any) -> str:
        if self.node.unresolved:
            return f"would be {name}"  # `leave` names the value
        unresolved = first_unresolved(self.plain)
        if unresolved:
            return f"would be {name}, but is not known: {unresolved}"
        if not _is_finite(value) or not accepts(ExperimentConfig.names()[name], value):
            return f"{name} does not take {_shown(value)}; see docs/config.md"
        return ""

    def same(self, reason: str) -> None:
        """Report that segtune does the same anyway."""
        self._add("same", reason)

    def leave(self, reason: str, changes_numbers: bool = True) -> None:
        """Report that the value is not carried over."""
        unresolved = str(self.node.unresolved or "")
        earlier = self.ledger.entries.get(self.key)
        if unresolved not in f"{reason} {earlier.text if earlier else ''}":
            reason = f"not known: {unresolved}; {reason}"
        self.ledger.add(Entry(self.key, self.node.place, "left", reason, changes_numbers))

    def _add(self, group: Group, text: str) -> None:
        self.ledger.add(Entry(self.key, self.node.place, group, text))


@dataclass(frozen=True)
class Row:
    """A key that has a setting in segtune, in the same or a converted unit."""

    setting: str
    convert: Callable[[Any], Any] = lambda value: value
    remark: str = ""


@dataclass(frozen=True)
class Fixed:
    """A key whose value segtune does not let choose: these values, or not carried over."""

    allowed: tuple[Any, ...]
    reason: str = NO_RULE
    changes_numbers: bool = True


@dataclass(frozen=True)
class Same:
    """A key that does not change what segtune does, whatever its value."""

    reason: str


@dataclass(frozen=True)
class Left:
    """A key that is never carried over."""

    reason: str
    changes_numbers: bool = True


Rule = Row | Fixed | Same | Left


def apply(ref: Ref | None, rules: Mapping[str, Rule]) -> None:
    """Report every entry of a dict that has a rule. Entries without a rule stay unreported."""
    if ref is None:
        return
    for name, part in ref.parts().items():
        match rules.get(name):
            case Row(setting, convert, remark):
                part.carry({setting: _converted(part, convert)}, remark)
            case Fixed(allowed, reason, changes):
                if equals_one_of(part.plain, allowed):
                    part.same("the only value in segtune")
                else:
                    options = " or ".join(_shown(value) for value in allowed)
                    text = f"{_shown(part.plain)}; segtune has {options}"
                    text += "" if reason == NO_RULE else f": {reason}"
                    part.leave(text if allowed else reason, changes)
            case Same(reason):
                part.same(reason)
            case Left(reason, changes):
                part.leave(reason, changes)
            case None:
                pass


def _converted(ref: Ref, convert: Callable[[Any], Any]) -> Any:
    """Return the value in segtune's unit; the plain value if it has another type."""
    if ref.node.unresolved:
        return None
    try:
        return convert(ref.plain)
    except (TypeError, ValueError, IndexError, OverflowError):
        return ref.plain


def equals_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether a plain value equals one of several; True is not 1."""
    return any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed
    )


def is_number(value: Any) -> bool:
    """Whether a plain value is a number that a float can hold; a truth value is none."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) <= sys.float_info.max


def _is_finite(value: Any) -> bool:
    """Whether all numbers of a plain value are in the range of a float."""
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, int | float) or isinstance(value, bool) or is_number(value)


def is_like(value: Any, example: Any) -> bool:
    """Whether a value has the type of an example: numbers, text, truth values, lists of these."""
    if isinstance(example, list):
        return isinstance(value, list) and all(is_like(item, example[0]) for item in value)
    if is_number(example):
        return is_number(value)
    return isinstance(value, type(example))


def first_unresolved(value: Any) -> Unresolved | None:
    """Return the first value that is not known, of a plain value and its parts."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return next((found for part in parts if (found := first_unresolved(part))), None)
    return value if isinstance(value, Unresolved) else None


def accepts(field_info: FieldInfo, value: Any) -> bool:
    """Whether a setting takes a value, on its own."""
    if get_origin(field_info.annotation) is Literal:
        return value in get_args(field_info.annotation)
    one = create_model(
        "One",
        __config__=ConfigDict(strict=True),
        value=(field_info.annotation or Any, field_info),
    )
    try:
        one.model_validate_json(json.dumps({"value": value}, default=str))
    except ValidationError:
        return False
    return True


def _shown(value: Any) -> str:
    """Return a plain value for a message, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
