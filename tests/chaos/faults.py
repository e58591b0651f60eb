"""What is done to the pods: something bad to a random one every now and then."""

from __future__ import annotations

import collections
import random
import signal
import subprocess
import threading
from collections.abc import Callable

from chaos.account import Pod

# A pause that outlasts visibility and lease.
LONG_PAUSE_SECONDS = 34.0
# One pod of a runtime has its clock stepped, by less than what is left of a lease that is kept alive.
CLOCK_STEPS = (-15.0, -5.0, 0.0, 5.0, 15.0)


class Chaos:
    """Harms random pods until it is told to stop."""

    def __init__(self, pods: list[Pod], rng: random.Random) -> None:
        self.pods = pods
        self.random = rng
        self.counts: collections.Counter[str] = collections.Counter()
        self.stopped = threading.Event()
        self.actions: list[tuple[str, Callable[[Pod], None]]] = [
            ("kill agent", lambda pod: self.send(pod.agent, signal.SIGKILL)),
            ("terminate agent", lambda pod: self.send(pod.agent, signal.SIGTERM)),
            ("terminate pod", self.terminate_pod),
            ("kill runtime", lambda pod: self.send(pod.server, signal.SIGKILL)),
            ("hang runtime", lambda pod: self.pause(pod.server, self.random.uniform(1, 4))),
            ("pause agent", self.pause_agent),
            ("pause agent past its lease", self.pause_for_long),
            ("step clock", self.step_clock),
        ]

    def send(self, process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
        if process is not None and process.poll() is None:
            process.send_signal(number)

    def terminate_pod(self, pod: Pod) -> None:
        """Signal both containers at once, as the end of a pod without ordered shutdown does."""
        self.send(pod.server, signal.SIGTERM)
        self.send(pod.agent, signal.SIGTERM)

    def pause(self, process: subprocess.Popen[bytes] | None, seconds: float) -> None:
        self.send(process, signal.SIGSTOP)
        timer = threading.Timer(seconds, lambda: self.send(process, signal.SIGCONT))
        timer.daemon = True
        timer.start()

    def pause_agent(self, pod: Pod) -> None:
        seconds = self.random.uniform(1, 4)
        pod.note("chaos_incident", seconds)
        self.pause(pod.agent, seconds)

    def pause_for_long(self, pod: Pod) -> None:
        pod.note("chaos_pause", LONG_PAUSE_SECONDS)
        self.pause(pod.agent, LONG_PAUSE_SECONDS)

    def step_clock(self, pod: Pod) -> None:
        if pod.number == 0:
            pod.clock.write_text(str(self.random.choice(CLOCK_STEPS)))

    def run(self, interval_seconds: float) -> None:
        while not self.stopped.wait(self.random.uniform(0.5, 1.5) * interval_seconds):
            name, action = self.random.choice(self.actions)
            pod = self.random.choice(self.pods)
            self.counts[name] += 1
            pod.note("chaos_incident")
            action(pod)

    def end(self) -> None:
        """Stop harming, wake who was paused, and put the clocks right."""
        self.stopped.set()
        for pod in self.pods:
            pod.clock.write_text("0")
            self.send(pod.agent, signal.SIGCONT)
            self.send(pod.server, signal.SIGCONT)
