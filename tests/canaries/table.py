"""Bugs to plant, and the test that must catch each.

A row's `old` text occurs exactly once in its file: tests/style/test_canaries.py sees to it, so
whoever rewrites such a place plants the bug anew.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen


@frozen
class Canary:
    """One bug: `old` becomes `new` in `file`, and `test` (pytest's name of it) has to fail."""

    bug: str
    file: str
    old: str
    new: str
    test: str


CANARIES: Final = (
    Canary(
        "overlap one too far",
        "mmiod/machine/memory.py",
        "gpa < other.end and other.gpa < end:",
        "gpa <= other.end and other.gpa < end:",
        "tests/machine/test_memory.py::TestSlots",
    ),
    Canary(
        "claim one too long",
        "mmiod/machine/address_map.py",
        "if claim.base <= start < claim.end",
        "if claim.base <= start <= claim.end",
        "tests/machine/test_address_map.py::test_policy_under_a_claim_shows_where_the_claim_ends",
    ),
    Canary(
        "vCPU number one too high",
        "mmiod/protocol/exit/session.py",
        "        if vcpu >= self._vcpus:",
        "        if vcpu > self._vcpus:",
        "tests/protocol/test_session.py::test_vcpus_are_those_of_hello",
    ),
    Canary(
        "pause without a drain",
        "mmiod/attach/flights.py",
        "for flight in self.current.values() if flight.waits_for is not None)",
        "for flight in self.current.values() if flight.dropped)",
        "tests/attach/test_vm.py::test_pause_waits_for_what_a_device_holds_up",
    ),
    Canary(
        "RIP advanced on a fault",
        "mmiod/x86/strings.py",
        "return Delta(self.vcpu.rip, self.vcpu.rflags, self._registers())",
        "return Delta(self.vcpu.rip + self.i.length, self.vcpu.rflags, self._registers())",
        "tests/x86/test_strings.py::test_fault_in_a_later_iteration_keeps_the_earlier_ones",
    ),
    Canary(
        "REP's RCX one too low",
        "mmiod/x86/strings.py",
        "counter.read(self.vcpu) - self.done)",
        "counter.read(self.vcpu) - self.done - 1)",
        "tests/x86/test_strings.py::test_one_run_is_bounded",
    ),
    Canary(
        "effect before a probe",
        "mmiod/x86/strings.py",
        "    target = yield from batch.reach(destination, Intent.WRITE)\n"
        "    value = yield Read(address, source.size)",
        "    value = yield Read(address, source.size)\n"
        "    target = yield from batch.reach(destination, Intent.WRITE)",
        "tests/x86/test_strings.py::test_stop_at_the_destination_precedes_all_effects",
    ),
    Canary(
        "operand probed for reading only",
        "mmiod/x86/semantics.py",
        "    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.WRITE)\n"
        "    old = yield Read(address, memory.size)\n"
        "    operation =",
        "    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)\n"
        "    old = yield Read(address, memory.size)\n"
        "    operation =",
        "tests/x86/test_semantics.py::test_modified_memory_is_probed_for_writing_first",
    ),
    Canary(
        "plan that does not end",
        "mmiod/x86/strings.py",
        "                if self.done == bound:",
        "                if self.done == bound * 100:",
        "tests/fuzz/test_targets.py::test_target_holds[x86]",
    ),
    Canary(
        "slot's descriptor not closed",
        "mmiod/machine/memory.py",
        "            slot.storage.close()",
        "            slot.storage.read(0, 0)",
        "tests/attach/test_garbage.py::test_memory_that_is_not_mapped_is_let_go",
    ),
    Canary(
        "message's descriptor not closed",
        "mmiod/attach/vm.py",
        "            for descriptor in descriptors:\n                os.close(descriptor)",
        "            descriptors.clear()",
        "tests/attach/test_garbage.py::test_descriptors_that_nobody_asked_for_are_closed",
    ),
    Canary(
        "resend executed again",
        "mmiod/protocol/exit/ledger.py",
        "return IN_FLIGHT if last.in_flight else last.reply",
        "return IN_FLIGHT if last.in_flight else NEW",
        "tests/attach/test_exactly_once.py::test_resend_of_the_last_exit_gets_the_kept_reply",
    ),
    Canary(
        "reply to the connection that was",
        "mmiod/attach/flights.py",
        "                flight.reply_to = connection",
        "                flight.reply_to = flight.reply_to",
        "tests/attach/test_exactly_once.py::test_exit_in_flight_is_answered_on_the_new_connection",
    ),
    Canary(
        "reply to a posted write",
        "mmiod/attach/flights.py",
        "        for flight in (self.current[vcpu], *self._backlog.get(vcpu, ())):\n"
        "            if flight.reply_to is not None:\n",
        "        for flight in (self.current[vcpu],):\n            if flight:\n",
        "tests/attach/test_exactly_once.py::test_resend_of_an_exit_that_waits_behind_a_posted_write",
    ),
    Canary(
        "timers of one deadline in reverse",
        "mmiod/machine/clock.py",
        "        number = next(self._numbers)",
        "        number = -next(self._numbers)",
        "tests/machine/test_clock.py::test_timers_of_one_deadline_fire_in_the_order_of_arming",
    ),
    Canary(
        "wire that is no OR",
        "mmiod/machine/wires.py",
        "            self.high.discard(source)",
        "            self.high.clear()",
        "tests/machine/test_wires.py::test_sink_is_the_or_of_its_sources",
    ),
    Canary(
        "w1c as rw",
        "mmiod/device/registers.py",
        '    "w1c": ("readable", "cleared"),',
        '    "w1c": ("readable", "stored"),',
        "tests/device/test_registers.py::test_every_bit_follows_its_mode_under_whole_and_partial_accesses",
    ),
    Canary(
        "bank not asked",
        "mmiod/device/dispatch.py",
        "if register.when is None or register.when(device):",
        "if register.when is None or register.when:",
        "tests/device/test_dispatch.py::test_a_bank_selects_by_the_devices_state",
    ),
    Canary(
        "restore without the wires",
        "mmiod/machine/machine.py",
        "        self.wires.restore(high)",
        "        self.wires.restore(set())",
        "tests/machine/test_state.py::test_a_line_that_was_high_is_high_after_a_restore",
    ),
    Canary(
        "watchdog that never fires",
        "mmiod/core/watchdog.py",
        "        if not since or perf_counter_ns() - since < self.deadline_ns:",
        "        if not since or perf_counter_ns() - since < self.deadline_ns * 1_000_000:",
        "tests/core/test_watchdog.py::test_each_late_hook_is_interrupted_once",
    ),
    Canary(
        "device that owes is asked again",
        "mmiod/machine/host.py",
        "        if self.owes is not None:\n            return BUSY",
        "        if False:\n            return BUSY",
        "tests/machine/test_host.py::test_device_that_owes_an_answer_gets_no_other_access",
    ),
    Canary(
        "control clients one too many",
        "mmiod/control/server.py",
        "            if self.clients > MAX_CLIENTS:",
        "            if self.clients > MAX_CLIENTS + 1:",
        "tests/control/test_server.py::test_clients_are_bounded",
    ),
)
