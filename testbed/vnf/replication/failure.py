"""A failure detector without I/O: who has not been heard of for too long."""

from __future__ import annotations


class Detector:
    """Suspects a watched member whose last sign of life is more than `timeout_ns` old.

    Members fail for good: a suspected member stays suspected, and is reported once, until it is
    forgotten or watched anew. Raises ValueError for a timeout below 1.
    """

    def __init__(self, timeout_ns: int) -> None:
        if timeout_ns < 1:
            raise ValueError(f"timeout_ns = {timeout_ns}: expected at least 1")
        self._timeout_ns = timeout_ns
        self._heard_ns: dict[str, int] = {}

    def watch(self, member: str, now_ns: int) -> None:
        """Watch `member` from now on, as if it had just been heard of."""
        self._heard_ns[member] = now_ns

    def forget(self, member: str) -> None:
        """Watch `member` no more; nothing happens if it was not watched."""
        self._heard_ns.pop(member, None)

    def heartbeat(self, member: str, sent_ns: int) -> None:
        """`member` lived at `sent_ns`. Older news and members that are not watched are ignored."""
        heard_ns = self._heard_ns.get(member)
        if heard_ns is not None and sent_ns > heard_ns:
            self._heard_ns[member] = sent_ns

    def check(self, now_ns: int) -> list[str]:
        """The members suspected since the last check, in the order in which they were watched."""
        oldest_ns = now_ns - self._timeout_ns
        suspected = [name for name, heard_ns in self._heard_ns.items() if heard_ns < oldest_ns]
        for name in suspected:
            del self._heard_ns[name]
        return suspected
