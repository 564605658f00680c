"""What went wrong with a server latest, in words, and since when."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

#: What can go wrong: an attempt, a connection's setup or its youth, a lease. What goes well
#: afterwards ends only a run of the same kind.
TroubleKind: TypeAlias = Literal["attempt", "connection", "lease"]

#: Characters of a text that are kept: a line or two.
_AT_MOST: Final = 300


class Trouble:
    """A run of failures of one kind; times are monotonic seconds.

    :param kind: what failed.
    :param text: how, in words.
    :param now: when.
    """

    __slots__ = ("at", "kind", "over", "since", "text")

    def __init__(self, kind: TroubleKind, text: str, now: float) -> None:
        self.kind = kind
        #: Of the latest failure.
        self.text = text
        self.at = now
        #: When the first one was.
        self.since = now
        #: Whether one of the kind went well since.
        self.over = False


class Troubled:
    """What a client's record of a server says for those who look, and no decision reads."""

    __slots__ = ("attempts", "failed_attempts", "faulty", "trouble")

    def __init__(self) -> None:
        #: What went wrong latest; None: nothing.
        self.trouble: Trouble | None = None
        #: How many attempts there were, and how many of them got no slot.
        self.attempts = self.failed_attempts = 0
        #: Whether the latest one ended in an error that a person must fix.
        self.faulty = False

    def attempted(self, failure: str | None, now: float, *, faulty: bool = False) -> None:
        """Take note of how an attempt ended.

        :param failure: why it got no slot, in words; None: it got one.
        :param faulty: whether that's for a person to fix.
        """
        self.attempts += 1
        self.faulty = faulty
        if failure is None:
            self.went_well("attempt")
        else:
            self.failed_attempts += 1
            self.went_wrong("attempt", failure, now)

    def forget_attempts(self) -> None:
        """Count from nothing."""
        self.attempts = self.failed_attempts = 0

    def went_wrong(self, kind: TroubleKind, text: str, now: float) -> None:
        """Remember what went wrong.

        :param text: what, in words. The latest one is kept.
        """
        trouble = self.trouble
        if trouble is None or trouble.over or trouble.kind != kind:
            self.trouble = Trouble(kind, text, now)
        else:
            trouble.text, trouble.at = text, now

    def went_well(self, kind: TroubleKind) -> None:
        """Take note that a run of failures is over, if it's of this kind."""
        trouble = self.trouble
        if trouble is not None and trouble.kind == kind:
            trouble.over = True


def in_words(failure: BaseException) -> str:
    """Return what an exception says, in one short text, whatever its ``__str__`` does."""
    name = type(failure).__name__
    try:
        text = f"{name}: {failure}"
    except Exception:  # It may be a user's.
        return name
    return text if len(text) <= _AT_MOST else f"{text[: _AT_MOST - 1]}…"
