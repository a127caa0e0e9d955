"""Counts what looks compute at the standing rate, in positions, for chats of usual lengths.

    python -m bench.audits.standing [--answers N]

Counts alone: no model runs, and other work on the machine changes nothing. Which answers are looked at is decided by
the gateway's own rules.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from rich.console import Console
from rich.table import Table

from gateway.audits.canaries import MAX_TOKENS
from gateway.audits.trials import TRIAL_SHARE
from gateway.audits.verdicts import CANARY_PART, FULL_POSITIONS, LEAST_SHARE, Case

FLAT_SHARE = 0.02
"""What would be looked at if it did not count how long prompts are."""

CANARY_PROMPT = 30
"""Tokens of a canary's prompt, template included."""

LIES_UNTIL_SUSPECTED = 64
"""Tokens with a wrong seed, of a worker that was honest for two thousand looks, by which it is suspected: in float32
each says 0.3 nats (docs/audits.md). From there on all of its answers are looked at, and it is flagged within a few."""


@dataclass(frozen=True)
class Turn:
    """Tokens of one request: those that were computed before for the same chat, new ones of the prompt, the answer."""

    cached: int
    new: int
    answer: int


@dataclass(frozen=True)
class Chats:
    """Chats of so many turns. Each adds so many tokens to the prompt, after a beginning."""

    name: str
    turns: int
    beginning: int
    asked: int
    answered: int
    is_cached: bool

    def one(self, rng: random.Random) -> Iterator[Turn]:
        """Lengths are from half to one and a half of the usual ones."""
        before, prompt = 0, self.beginning
        for _ in range(self.turns):
            prompt += round(self.asked * rng.uniform(0.5, 1.5))
            answer = max(1, round(self.answered * rng.uniform(0.5, 1.5)))
            yield Turn(before, prompt - before, answer)
            prompt += answer
            before = prompt if self.is_cached else 0


KINDS = (
    Chats("one question", 1, 30, 60, 250, False),
    Chats("a chat of ten turns, computed before", 10, 30, 60, 250, True),
    Chats("a chat of ten turns, computed anew", 10, 30, 60, 250, False),
    Chats("questions on a long text", 3, 4_000, 60, 250, True),
    Chats("code completed", 1, 0, 1_500, 40, False),
    Chats("a long answer", 1, 30, 200, 2_000, False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=2_000_000)
    options = parser.parse_args()
    table = Table("chats", "served", "extra, 2 % of all", "extra", "one look in", "until suspected", "extra, canaries")
    for chats in KINDS:
        table.add_row(chats.name, *row(chats, options.answers))
    Console(width=140).print(table)


def row(chats: Chats, least: int) -> tuple[str, ...]:
    """Of as many answers at least."""
    rng, case = random.Random(1), Case("worker", "digest")
    case.evidence.note("auditor", -inf, round(FULL_POSITIONS / LEAST_SHARE / 1e-3))  # so long that nothing else counts
    answers = served = all_read = extra = looks = canaries = seen = 0
    while answers < least:
        for turn in chats.one(rng):
            answers += 1
            served += turn.new + turn.answer
            read = turn.cached + turn.new + turn.answer
            all_read += read
            if rng.random() < case.share_of(turn.answer / read):
                looks += 1
                seen += turn.answer
                extra += read + _tried(rng, read)
            if rng.random() < case.share_of(CANARY_PART):
                read = CANARY_PROMPT + rng.choice(MAX_TOKENS)  # at most: many end before
                canaries += 2 * read + _tried(rng, read)
    share = extra / served
    until = max(answers / looks, LIES_UNTIL_SUSPECTED * answers / seen)
    return (
        f"{served / answers:,.0f}",
        f"{FLAT_SHARE * (1 + TRIAL_SHARE) * all_read / served:.1%}",
        f"{share:.2%}",
        f"{answers / looks:,.0f}",
        f"{until:,.0f}",
        f"{canaries / served:.2%}",
    )


def _tried(rng: random.Random, read: int) -> int:
    """What a trial of the auditor computes after a look, at an answer as long: nobody is suspected here."""
    return read if rng.random() < TRIAL_SHARE else 0


if __name__ == "__main__":
    main()
