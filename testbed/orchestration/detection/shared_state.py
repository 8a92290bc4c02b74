"""The linearizable records of functions, as the majority of the FDU decided them. Pure.

All groups whose functions share records ask here (`testbed.vnf.replication.shared`). What a packet
asks for is carried out as a whole, if each record that it would change is still what the packet's
primary saw, and else not at all: so each change takes effect at one moment between its being asked
for and its being told, on the state that all changes before it made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from testbed.vnf.state.records import KEY_WORDS, PUT

Key: TypeAlias = tuple[int, ...]
Value: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a packet: its words, and what its record has to be before."""

    words: Sequence[int]
    key: Key
    expected: Value | None


@dataclass(slots=True)
class SharedState:
    """The records that some groups share, of `value_words` words each.

    `changes` has the words of all operations that were granted, packet by packet: change number n
    of `testbed.vnf.replication.shared` is `changes[n - 1]`. They are kept: who begins late takes
    them from the first on.
    """

    value_words: int
    records: dict[Key, Value] = field(default_factory=dict)
    changes: list[list[int]] = field(default_factory=list)

    def ask(self, words: Sequence[int]) -> list[bool]:
        """Carry out what an ask holds; which of its packets were granted what they asked for.

        Raises ValueError, and nothing is changed, for words that are no ask.
        """
        packets = list(_packets(words, self.value_words))
        return [self._grant(operations) for operations in packets]

    def _grant(self, operations: list[Operation]) -> bool:
        if any(self.records.get(each.key) != each.expected for each in operations):
            return False
        for operation in operations:
            self._carry_out(operation)
        self.changes.append([word for each in operations for word in each.words])
        return True

    def _carry_out(self, operation: Operation) -> None:
        head = operation.words[0]
        if head & 0xFF != PUT:
            self.records.pop(operation.key, None)
            return
        first, count = head >> 16 & 0xFFFF, head >> 32 & 0xFFFF
        value = list(self.records.get(operation.key, (0,) * self.value_words))
        value[first : first + count] = operation.words[len(operation.words) - count :]
        self.records[operation.key] = tuple(value)


def _packets(words: Sequence[int], value_words: int) -> Iterator[list[Operation]]:
    at = 0
    while at < len(words):
        end = at + 1 + words[at]
        if words[at] < 1 or end > len(words):
            raise ValueError(f"packet of {words[at]} words at {at}: expected 1 to what is left")
        yield list(_operations(words[at + 1 : end], value_words))
        at = end


def _operations(words: Sequence[int], value_words: int) -> Iterator[Operation]:
    at = 0
    while at < len(words):
        head = words[at]
        key_words, first, count = head >> 8 & 0xFF, head >> 16 & 0xFFFF, head >> 32 & 0xFFFF
        size = 1 + key_words + (count if head & 0xFF == PUT else 0)
        if key_words > KEY_WORDS or first + count > value_words or at + size >= len(words):
            raise ValueError(f"operation {head:#x} at {at}: it does not fit")
        key = (*words[at + 1 : at + 1 + key_words], *(0,) * (KEY_WORDS - key_words))
        operation = words[at : at + size]
        at += size
        known = words[at]
        at += 1
        expected = tuple(words[at : at + value_words]) if known else None
        if known and len(words) - at < value_words:
            raise ValueError(f"expectation at {at}: expected {value_words} words")
        yield Operation(operation, key, expected)
        at += value_words if known else 0
