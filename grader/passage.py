"""How a simulated time passes: a fortnight in seconds, with nothing lost that counts.

Most wake-ups of a beat are left out: where it is fine, those of a scheduler that looks for news
every few seconds; elsewhere all but a few each hour. What was due in between is then late, what is
due on the hour is not.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

# What counts is due at a multiple of these seconds; where it is fine, also some after a sending.
PERIOD, HOUR = 300.0, 3600.0
POLL = 60.0  # who asks to sleep for less may be looking for news
LOOKS = 5.0  # seconds that beat's own looks at its clock may take between two sleeps
Span = tuple[float, float]


@dataclass
class Passage:
    """The way from the first of some legs to the end of the last; all times are epoch seconds.

    Attributes:
        legs: pairs of times: beat lives from the first to the second, then in the next leg.
        fine: between which every due instant counts; elsewhere full hours do.
        whole: between which beat wakes up as often as it asks to.
        periods: seconds after a sending at which the same may be due again.
        real: seconds that still pass as slowly as on the wall, a wait for each sleep.
        pace: how much faster than a real clock it is afterwards, 0 for as fast as it goes.
        now: the moment that it is.
        over: whether the last leg is.
    """

    legs: list[Span]
    fine: Sequence[Span]
    whole: Sequence[Span] = ()
    periods: Sequence[float] = (PERIOD,)
    real: float = 0.0
    pace: float = 0.0
    now: float = field(init=False)
    over: bool = False

    def __post_init__(self) -> None:
        self.now = self.legs[0][0]
        self._marks: dict[Hashable, float] = {"": self.now + PERIOD}

    def look(self, at: float) -> float:
        """Return the moment that it is, by a beat's own clock within narrow bounds."""
        self.now = min(max(self.now, at), self.now + LOOKS)
        return self.now

    def sent(self, what: Hashable) -> None:
        """Note that something was sent: it may be due again when one of the periods is over."""
        for period in self.periods:
            self._marks[what, period] = self.now + period

    def rest(self, asked: float) -> float:
        """Let beat sleep for so many seconds, or longer where nothing counts.

        Returns:
            The real seconds that it has to wait.
        """
        asked = max(0.0, asked)
        if self.real > 0:
            # A beat that sleeps for longer than it has in real seconds is late all the same.
            waited = min(asked, self.real)
            self.real -= waited
        else:
            waited = asked / self.pace if self.pace else 0.0
        self.now += asked
        if self.real <= 0 and (left_out := self._left_out(asked)):
            waited += left_out / self.pace if self.pace else 0.0
            self.now += left_out
        if self.now >= self.legs[0][1]:
            self._next_leg()
        return waited

    def _left_out(self, asked: float) -> float:
        """Return the seconds until the next instant that counts, 0 if one has only just been.

        Beat wakes up again shortly after an instant: what was due a moment later is not lost.
        """
        now = self.now
        if any(start <= now < end for start, end in self.whole):
            return 0.0
        fine = any(start <= now < end for start, end in self.fine)
        if fine and asked >= POLL:
            return 0.0  # it knows when it is needed
        step = PERIOD if fine else HOUR
        starts = (start for start, _ in [*self.fine, *self.whole])
        marks = [now - now % step, now - now % step + step, *starts]
        marks += self._marks.values() if fine else []
        if any(0 <= now - mark <= min(asked, POLL) + 0.5 for mark in marks):
            return 0.0
        return min(mark for mark in marks if mark > now) - now

    def _next_leg(self) -> None:
        """Go to the next leg, or be over."""
        self.legs.pop(0)
        self.over = not self.legs
        if self.legs:
            self.now = self.legs[0][0]
