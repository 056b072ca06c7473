"""The self-check of a plugin's next generation, as a program: `python -m mmiod.plugins.check`.

A clean interpreter is asked on its standard input (a `Question`, marshalled) and answers on
its standard output (a `Verdict`, JSON).  Whatever the plugin's code does, it does it here:
the daemon is told, and serves on.  Checked are, for each instance:

- the module can be executed, twice, the second time within the hook deadline; its class is
  right, and takes the instance's configuration;
- the new device can be made, takes the state of the one that serves, and gives back what it
  took: a second hand-over changes nothing;
- registers can be inspected;
- the last recorded accesses, once more from that state, make no hook fail that did not fail
  before.  Values may differ, as that is what people edit for: they are told.

Guest memory, other devices and backends are not here: reads of them give ones, for both
generations.
"""

from __future__ import annotations

import os
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from attrs import define, field

from mmiod import config as configuration
from mmiod.core.watchdog import Watchdog
from mmiod.device import Device
from mmiod.device.saved import Saved
from mmiod.errors import ConfigError
from mmiod.machine.clock import MachineClock
from mmiod.machine.context import DeviceContext
from mmiod.machine.description import DeviceDescription
from mmiod.machine.handover import NotReady, prepare
from mmiod.machine.host import InlineHost
from mmiod.machine.mark import HookDeadlineExceeded, Mark
from mmiod.machine.plain import byte_form
from mmiod.machine.snapshot import give, take
from mmiod.machine.waist import Owed
from mmiod.plugins.loader import LoadError, make
from mmiod.plugins.question import Instance, Question, Rejected, Verdict
from mmiod.plugins.stage import Run, Stage, broken, differences, timed, words
from mmiod.values import READ, Space

NICENESS: Final = 19
"""Guests first."""
MEMORY: Final = 2 << 30
"""Bytes of address space: for two generations, and all that their devices hold."""
PATIENCE: Final = 10
"""Deadlines after which a hook that does not end is interrupted."""
T = TypeVar("T")

MAX_TOLD: Final = 8
"""Differences that are spelled out."""
EDIT: Final = "correct the file and reload; until then the old generation serves"
CONFIGURE: Final = "give the option a default, or change the machine file and restart"
INSPECT: Final = "correct the function that derives the register's value"
QUICK: Final = "do at import what is quick, and the rest in a hook"
HOOK: Final = "correct the hook: it failed on an access that the guest has made lately"


@define(eq=False)
class Check:
    """A question under work; `marks` are what the watchdog looks at."""

    question: Question
    marks: list[Mark] = field(factory=list)

    def run(self) -> Verdict:
        """Check the generation against all instances.

        Raises:
            Rejected: it is not fit to serve.
        """
        before = make(self.question.before)
        after = self._load()
        verdicts = [self._instance(instance, before, after) for instance in self.question.instances]
        told = [difference for verdict in verdicts for difference in verdict.differences]
        return Verdict(
            accesses=sum(verdict.accesses for verdict in verdicts),
            differing=sum(verdict.differing for verdict in verdicts),
            differences=told[:MAX_TOLD],
        )

    def _load(self) -> type[Device]:
        """The class; the deadline holds for the second load, which finds all that is imported there."""
        source = self.question.after
        try:
            make(source)
            after = timed(self.question.deadline_ns, partial(make, source))
        except LoadError as error:
            raise Rejected(Verdict(error.reason, EDIT, error.file, error.line)) from error
        except HookDeadlineExceeded as error:
            raise Rejected.at(
                source.files, error, f"the module's own code runs for {error}", QUICK
            ) from error
        else:
            byte_form(after)  # compiles, which is not the hooks' time
            return after

    def _instance(self, instance: Instance, before: type[Device], after: type[Device]) -> Verdict:
        old, new = self._serving(instance, before), self._serving(instance, before)
        self._replace(instance, new, after)
        before_too = dict(broken(old))
        for name, error in [found for found in broken(new) if found[0] not in before_too]:
            reason = f"{instance.name}: register {name}: {type(error).__name__}: {error}"
            raise self._rejected(error, reason, INSPECT) from error
        old.act(instance.steps)
        new.act(instance.steps)
        failed = new.stage.failed
        if failed is not None and (old.stage.failed is None or len(new.answers) < len(old.answers)):
            what = words(instance.steps[len(new.answers)])
            reason = f"{instance.name}: {what}: {type(failed).__name__}: {failed}"
            raise self._rejected(failed, reason, HOOK)
        told = [f"{instance.name}: {found}" for found in differences(old, new, instance.steps)]
        return Verdict(accesses=len(new.answers), differing=len(told), differences=told[:MAX_TOLD])

    def _replace(self, instance: Instance, run: Run, after: type[Device]) -> None:
        """Hand over to the new class, and from that to itself, which must change nothing."""
        taken = []
        try:
            config = _configured(instance, after)
            for drop in (self.question.drop, False):
                run.host.owes = Owed(READ, 8, 0, "", 0, answered=True) if instance.owes else None
                make_next = partial(prepare, run.stage, after, {instance.device: config}, drop=drop)
                timed(self.question.deadline_ns, make_next).commit(0)
                taken.append(take(run.host.device))
        except ConfigError as error:
            raise Rejected(Verdict(f"{instance.name}: {'; '.join(error.problems)}", CONFIGURE)) from error
        except HookDeadlineExceeded as error:
            reason = f"{instance.name}: the constructor, `migrate` or `on_reload` runs for {error}"
            raise self._rejected(error, reason, EDIT) from error
        except NotReady as error:
            raise self._rejected(error.__cause__, f"{instance.vm}/{error}", error.remedy) from error
        failed = run.stage.failed
        if failed is not None:
            raise self._rejected(failed, f"{instance.name}: {type(failed).__name__}: {failed}", EDIT)
        if taken[0] != taken[1]:
            raise Rejected(Verdict(f"{instance.name}: it does not restore what it saved", EDIT))

    def _serving(self, instance: Instance, plugin: type[Device]) -> Run:
        """The generation that serves now, as it is now."""
        clock = MachineClock(lambda: 0, lambda: 0.0)
        clock.power_on(virtual=True)
        clock.restore(instance.now_ns, clock.wall_start_s)
        stage = Stage(instance.vm, clock, lambda *_event, **_fields: None, lambda _record: None)
        self.marks.append(stage.mark)
        device = plugin(DeviceContext(stage, instance.device), _configured(instance, plugin))
        host = InlineHost(instance.device, "", device, stage)
        stage.add_host(host)
        give(device, Saved(**instance.saved))
        for region, space, base, fixed in instance.claims:
            stage.place(host.name, device.regions[region], Space(space), base, fixed=fixed)
        return Run(host, stage, self.question.deadline_ns)

    def _rejected(self, error: BaseException | None, reason: str, remedy: str) -> Rejected:
        return Rejected.at(self.question.after.files, error, reason, remedy)


def _configured(instance: Instance, plugin: type[Device]) -> object:
    described = DeviceDescription("", config=instance.config)
    return configuration.configure(plugin, described, Path(instance.directory))


def main() -> None:
    """Read a question, answer it."""
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = os.dup(1)
    os.dup2(2, 1)  # what a plugin prints is no answer
    check = Check(Question.decode(sys.stdin.buffer.read()))
    watchdog = Watchdog(check.marks, PATIENCE * check.question.deadline_ns)
    watchdog.working.set()
    watchdog.start()
    try:
        verdict = check.run()
    except Rejected as error:
        verdict = error.verdict
    os.write(answer, verdict.encode())
    os._exit(0)  # a plugin's threads and exit handlers have nothing to say


if __name__ == "__main__":
    main()
