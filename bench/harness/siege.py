"""The honest side of an attack: a swarm of processes, paced requests beside the attack, and what became of all of them.

Every answer is compared with what it has to be. Knows nothing of what is attacked, nor how.

    with siege(workers=2) as besieged:
        assert_held(await besieged.withstand(attack, seconds=4))
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.harness.chain_model import chain_text
from bench.harness.storm import wait_for_workers
from bench.harness.swarm import Process, Swarm, swarm
from bench.harness.target import Attack, Target, TargetPeer
from bench.harness.timed_client import ChatRequest, ask
from bench.harness.vitals import Vitals

MODEL = "chain"
TOKENS = 8
PACE_PER_S = 5.0
"""Of honest requests: far below what two workers can do, so that only what is refused or comes late is missing."""
DEADLINE_S = 5.0
"""A request takes 20 ms. Who waits longer than this for a few words is not served."""
BEFORE_S = 1.0
RECOVERED_AFTER_S = 1.0
"""All is as before when the requests of so long are answered right, and as fast."""
AS_FAST_FACTOR = 3.0
AS_FAST_S = 0.5
"""As fast as before: within thrice the slowest before, or within this. A busy machine is not an attack's doing."""

MIN_SHARE = 0.8
MAX_GROWTH_MB = 100.0
MAX_RECOVERY_S = 10.0
"""The aims of docs/threats.md."""
LOG_LINES = 15


@dataclass(frozen=True)
class Honest:
    """One honest request. `took_s` is None when no right answer came in time; `problem` says what came."""

    took_s: float | None
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """An attack that is over. `asked` and `answered` (right, and in time) are of while it lasted; `growth_mb` has each
    process and each p2pd by name, and `dead` those that are gone; `recovered_s` is how long after its end all was as
    before, None when it never was."""

    asked: int
    answered: int
    growth_mb: Mapping[str, float]
    dead: tuple[str, ...]
    recovered_s: float | None
    problems: tuple[str, ...]
    logs: str

    @property
    def share(self) -> float:
        return self.answered / self.asked

    def faults(self) -> list[str]:
        """Each aim that was missed, by whom and by how much."""
        found = [f"{name} died, or was started again" for name in self.dead]
        if self.share < MIN_SHARE:
            examples = ", ".join(sorted(set(self.problems))[:4])
            found.append(f"{self.answered} of {self.asked} honest requests were answered ({examples})")
        found += [
            f"{name} grew by {growth:.0f} MB" for name, growth in self.growth_mb.items() if growth > MAX_GROWTH_MB
        ]
        if self.recovered_s is None or self.recovered_s > MAX_RECOVERY_S:
            found.append(f"not as before {MAX_RECOVERY_S:.0f} s after the attack ({self.recovered_s})")
        return found


def assert_held(report: Report) -> None:
    """The aims: four fifths of the honest requests, at most 100 MB more in each process, nobody dead, all as before
    within ten seconds. Raises AssertionError, which says what was missed; prints what the processes have said."""
    if faults := report.faults():
        print(report.logs)
        raise AssertionError("; ".join(faults))


class Besieged:
    """A swarm that can be attacked. Make one with `siege`. `running` starts more processes for it."""

    def __init__(self, running: Swarm, bootstrap: Process, workers: Sequence[Process], gateway: Process) -> None:
        self.running = running
        numbered = {f"worker {number}": worker for number, worker in enumerate(workers, start=1)}
        self.processes: Mapping[str, Process] = {"bootstrap": bootstrap, **numbered, "gateway": gateway}
        self.target = Target(
            TargetPeer.of(bootstrap),
            tuple(map(TargetPeer.of, workers)),
            TargetPeer.of(gateway),
            str(gateway.ready["http"]),
            MODEL,
        )
        self._asked = 0

    async def withstand(self, attack: Attack, seconds: float, pace_per_s: float = PACE_PER_S) -> Report:
        """Honest requests at this pace before the attack, while it lasts, and until all is as before.

        The attack is cancelled when its time is over; it may end before. Raises what it raises.
        """
        before = await self.ask_for(BEFORE_S, pace_per_s)
        assert all(one.took_s is not None for one in before), f"there was no peace before the attack: {before}"
        usual_s = max(one.took_s or 0.0 for one in before)
        vitals = Vitals(self.processes)
        async with vitals.watched():
            under_way = asyncio.ensure_future(attack(self.target))
            try:
                during = await self.ask_for(seconds, pace_per_s)
            finally:
                await end(under_way)
            recovered_s = await self._wait_recovered(max(AS_FAST_S, AS_FAST_FACTOR * usual_s), pace_per_s)
        return Report(
            asked=len(during),
            answered=sum(one.took_s is not None for one in during),
            growth_mb=vitals.growth_mb,
            dead=vitals.dead,
            recovered_s=recovered_s,
            problems=tuple(one.problem for one in during if one.took_s is None),
            logs="\n".join(f"---- {name}\n{_tail(process.log)}" for name, process in self.processes.items()),
        )

    async def ask_for(self, seconds: float, pace_per_s: float = PACE_PER_S) -> list[Honest]:
        """Open-loop: each is sent when its time has come, whatever became of the others."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        under_way = []
        for number in range(max(1, round(seconds * pace_per_s))):
            await asyncio.sleep(began_s + number / pace_per_s - loop.time())
            under_way.append(loop.create_task(self.ask()))
        return list(await asyncio.gather(*under_way))

    async def ask(self) -> Honest:
        """One honest request, with a prompt and a seed of its own."""
        self._asked += 1
        request = ChatRequest(f"honest-{self._asked}", MODEL, f"honest {self._asked}", TOKENS, seed=self._asked)
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(DEADLINE_S):
                answer = await ask(self.target.url, request)
        except TimeoutError:
            return Honest(None, f"nothing within {DEADLINE_S:.0f} s")
        except OSError as error:
            return Honest(None, f"no connection: {error}")
        if not answer.is_complete:
            return Honest(None, f"status {answer.status}, {answer.error or 'cut off'}")
        is_right = answer.text == chain_text(request.prompt, request.seed, TOKENS)
        return Honest(time.perf_counter() - began_s) if is_right else Honest(None, "a wrong answer")

    async def _wait_recovered(self, as_fast_s: float, pace_per_s: float) -> float | None:
        ended_s = time.perf_counter()
        while (recovered_s := time.perf_counter() - ended_s) <= MAX_RECOVERY_S:
            answers = await self.ask_for(RECOVERED_AFTER_S, pace_per_s)
            if all(one.took_s is not None and one.took_s <= as_fast_s for one in answers):
                return recovered_s
        return None


@contextlib.contextmanager
def siege(
    workers: int = 2,
    *,
    transport: str = "both",
    bootstrap_arguments: Sequence[str] = (),
    worker_arguments: Sequence[str] = (),
    gateway_arguments: Sequence[str] = (),
) -> Iterator[Besieged]:
    """All of it is ready, and the gateway lists the workers: some six seconds. For a fixture of one file of tests."""
    with swarm(transport) as running:
        try:
            yield _started(running, workers, bootstrap_arguments, worker_arguments, gateway_arguments)
        finally:
            running.kill()


def _started(
    running: Swarm,
    workers: int,
    bootstrap_arguments: Sequence[str],
    worker_arguments: Sequence[str],
    gateway_arguments: Sequence[str],
) -> Besieged:
    bootstrap = running.bootstrap(*bootstrap_arguments)
    serving = [running.echo_worker(bootstrap, "--chain", MODEL, *worker_arguments) for _ in range(workers)]
    gateway = running.gateway(bootstrap, 0, *gateway_arguments)
    besieged = Besieged(running, bootstrap, serving, gateway)
    asyncio.run(wait_for_workers(besieged.target.url, MODEL, workers))
    return besieged


async def end(attack: asyncio.Future[None]) -> None:
    """Cancel it. Raises what the attack has raised: one that does not work shows nothing."""
    if not attack.done():
        attack.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await attack


def _tail(log: str) -> str:
    return "\n".join(log.splitlines()[-LOG_LINES:])
