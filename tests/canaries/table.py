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
        "tests/machine/test_memory.py::test_slots_may_touch",
    ),
    Canary(
        "claim one too long",
        "mmiod/machine/address_map.py",
        "for number in range(first, min(end, len(filled))):",
        "for number in range(first, min(end + 1, len(filled))):",
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
        "answered access made nevertheless",
        "mmiod/core/bus.py",
        "            return machine.breaks.answered(stop)",
        "            machine.breaks.answered(stop)",
        "tests/attach/test_breaks.py::test_answer_instead_of_the_device",
    ),
    Canary(
        "an access that stood stops again",
        "mmiod/core/bus.py",
        "    wanted = stops and machine.breaks.wishes",
        "    wanted = machine.breaks.wishes",
        "tests/core/test_breaks.py::test_an_access_whose_device_moved_meanwhile_stops_once",
    ),
    Canary(
        "a doorbell that nobody rang",
        "mmiod/attach/grants.py",
        "_EVENTS: Final = select.EPOLLIN | select.EPOLLET",
        "_EVENTS: Final = select.EPOLLIN",
        "tests/attach/test_grants.py::test_a_doorbell_that_nobody_rings_rings_nothing",
    ),
    Canary(
        "a doorbell lost with its grant",
        "mmiod/attach/grants.py",
        "            self._hear()\n            self.ending.discard(number)",
        "            self.ending.discard(number)",
        "tests/attach/test_grants.py::test_what_is_rung_before_revoke_is_heard_in_any_row",
    ),
    Canary(
        "a wake-up that went with the slots",
        "mmiod/attach/shared.py",
        "    wake = os.eventfd(1, ",
        "    wake = os.eventfd(0, ",
        "tests/attach/test_shared.py::test_client_that_missed_the_end_of_its_slots_is_woken_by_new_ones",
    ),
    Canary(
        "access at a break lost with its client",
        "mmiod/machine/breaks.py",
        '                self.end(stop, "cleared")',
        "                self.stops.remove(stop)",
        "tests/attach/test_breaks.py::test_it_goes_on_when_nobody_breaks_there_any_more",
    ),
    Canary(
        "flat lane past a break",
        "mmiod/core/places.py",
        "type(host) is not InlineHost or host.broken or name in",
        "type(host) is not InlineHost or name in",
        "tests/attach/test_breaks.py::test_what_the_flat_lane_knew_stands_too",
    ),
    Canary(
        "read that comes again under any number",
        "mmiod/attach/vcpu_slot.py",
        "            or words[at + 2] != sequence\n",
        "",
        "tests/attach/test_flat.py::test_read_that_comes_again_is_checked_as_any",
    ),
    Canary(
        "load that comes again without paging",
        "mmiod/attach/loads.py",
        "            and words[at + CR0] == self.cr0\n",
        "",
        "tests/attach/test_flat.py::test_loads_that_come_again_come_to_the_same",
    ),
    Canary(
        "late hook that ended is nobody's fault",
        "mmiod/core/lane.py",
        "                    mark.flinch()",
        "                    pass",
        "tests/core/test_watchdog.py::test_hook_that_ended_before_it_was_told_is_blamed_by_the_lane",
    ),
    Canary(
        "registers of a watched device published",
        "mmiod/machine/published.py",
        "if shelf is None or name in self.withheld or not self.running:",
        "if shelf is None or not self.running:",
        "tests/machine/test_published.py::test_withheld",
    ),
    Canary(
        "interrupt before the page is current",
        "mmiod/machine/context.py",
        "            self.machine.page.withdraw(self.device)",
        "            self.machine.page.look(self.device)",
        "tests/machine/test_published.py::test_nothing_is_shown_when_the_guest_is_told_to_look",
    ),
    Canary(
        "what another region hides is published",
        "mmiod/machine/layout.py",
        "        if not crowded:",
        "        if crowded or not crowded:",
        "tests/machine/test_published.py::test_a_region_is_shown_where_all_of_it_is_there",
    ),
    Canary(
        "posted writes that a move adds are not waited for",
        "mmiod/machine/shelves.py",
        "if shelf.fresh or shelf.posted != _posted(rows):",
        "if shelf.fresh:",
        "tests/machine/test_published.py::test_what_moved_is_shown_as_if_it_had_always_been_there",
    ),
    Canary(
        "flat lane goes where a region was",
        "mmiod/core/lane.py",
        "if at.start - size < each < at.end]:",
        "if at.start < each < at.end]:",
        "tests/core/test_lane.py::test_what_is_known_is_what_is_there",
    ),
    Canary(
        "published read does not wait for posted writes",
        "mmiod/machine/shelves.py",
        "for number, write in enumerate(posted) if not write.named(tuple(unaffected))",
        "for number, write in enumerate(posted) if write.named(tuple(unaffected))",
        "tests/machine/test_published.py::test_reads_wait_for_the_writes_that_may_affect_them",
    ),
    Canary(
        "RIP advanced on a fault",
        "mmiod/x86/strings.py",
        "return Delta(self.vcpu.rip, self.vcpu.rflags, self._registers(), debug",
        "return Delta(self.vcpu.rip + self.i.length, self.vcpu.rflags, self._registers(), debug",
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
        "mmiod/x86/flows.py",
        "        yield Probe(address, size, _WRITE)\n"
        "        if vcpu.rflags & RFLAGS_AC:\n"
        "            check_alignment(vcpu, address, size)\n"
        "        old = yield",
        "        yield Probe(address, size, _READ)\n"
        "        if vcpu.rflags & RFLAGS_AC:\n"
        "            check_alignment(vcpu, address, size)\n"
        "        old = yield",
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
        "                flight.reply_to = reply_to",
        "                flight.reply_to = flight.reply_to",
        "tests/attach/test_exactly_once.py::test_exit_in_flight_is_answered_on_the_new_connection",
    ),
    Canary(
        "reply that is lost with its backend",
        "mmiod/core/service_lane.py",
        "        await self.inject(partial(self._replied, self._reply))",
        "        reply, ended = self._reply, self._end()\n"
        "        number = getattr(ended, 'number', 0)\n"
        "        await self.inject(partial(self.host.reply, self.place.name, number, reply))",
        "tests/core/test_device_task.py::test_a_reply_outlives_its_backend",
    ),
    Canary(
        "reply that is lost with a late hook",
        "mmiod/machine/inlets.py",
        "            return again(self.device, kind, arguments)",
        "            return None",
        "tests/machine/test_answers.py::test_an_answer_that_the_host_had_no_time_for_comes_again",
    ),
    Canary(
        "answer to a number that is used again",
        "mmiod/machine/restart.py",
        "            port.disown(number)",
        "            assert number is not None",
        "tests/machine/test_answers.py::test_a_number_that_is_used_again_gets_its_own_answer[False]",
    ),
    Canary(
        "reply to a posted write",
        "mmiod/attach/flights.py",
        "        for flight in (*self.current.values(), *self._backlog.get(vcpu, ()), *self._arrived):\n"
        "            if flight.vcpu == vcpu and flight.reply_to is not None:\n",
        "        for flight in (self.current[vcpu],):\n            if flight:\n",
        "tests/attach/test_exactly_once.py::test_resend_of_an_exit_that_waits_behind_a_posted_write",
    ),
    Canary(
        "virtual time goes on without a backend's answer",
        "mmiod/attach/flights.py",
        "return self.virtual and any(port.busy",
        "return not self.virtual and any(port.busy",
        "tests/attach/test_inputs.py::test_virtual_time_stands_while_a_backend_owes_an_answer",
    ),
    Canary(
        "restored although a backend refused its part",
        "mmiod/attach/documents.py",
        "        check_taken(machine)",
        "        machine.clock.stop()",
        "tests/attach/test_inputs.py::test_state_that_a_backend_does_not_take_is_refused",
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
        "mmiod/device/fields.py",
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
        "        if not since or not self._is_late(since):",
        "        if since or not self._is_late(since):",
        "tests/core/test_watchdog.py::test_each_late_hook_is_interrupted_once",
    ),
    Canary(
        "device that owes is asked again",
        "mmiod/machine/host.py",
        "        if self.owes is not None:\n            return BUSY\n        if direction",
        "        if False:\n            return BUSY\n        if direction",
        "tests/machine/test_host.py::test_device_that_owes_an_answer_gets_no_other_access",
    ),
    Canary(
        "batch counted as one access",
        "mmiod/machine/batches.py",
        "self.statistics.writes += taken",
        "self.statistics.writes += 1",
        "tests/core/test_strings.py::test_batches_are_what_single_accesses_are",
    ),
    Canary(
        "batch beyond the page",
        "mmiod/x86/strings.py",
        "room if into + memory.size <= _PAGE else 0",
        "room + 1 if into + memory.size <= _PAGE else 0",
        "tests/core/test_strings.py::test_next_page_is_somewhere_else",
    ),
    Canary(
        "MSR that is not there reads ones",
        "mmiod/core/bus.py",
        "        raise GuestFault(GP, 0)",
        "        return",
        "tests/core/test_msrs.py::test_general_protection",
    ),
    Canary(
        "only access not checked",
        "mmiod/core/steps.py",
        "        if isinstance(step, _ALONE) and not self.operands.checked:",
        "        if isinstance(step, _ALONE) and self.operands.checked:",
        "tests/core/test_run.py::test_what_is_forwarded_is_handed_back_before_any_effect",
    ),
    Canary(
        "short way beyond the device's range",
        "mmiod/core/direct.py",
        "or gpa + size > found.end ",
        "",
        "tests/core/test_direct.py::test_everything_else_is_left_to_the_plan",
    ),
    Canary(
        "control clients one too many",
        "mmiod/control/server.py",
        "            if len(self.clients) > MAX_CLIENTS:",
        "            if len(self.clients) > MAX_CLIENTS + 1:",
        "tests/control/test_server.py::test_clients_are_bounded",
    ),
    Canary(
        "scratch area one byte too long",
        "mmiod/protocol/sources/ghcb.py",
        "offset + length <= BUFFER.stop",
        "offset + length <= BUFFER.stop + 1",
        "tests/protocol/sources/test_malformed.py::test_malformed_request_has_its_reason",
    ),
    Canary(
        "reply stored where nothing is mapped",
        "mmiod/attach/sourced.py",
        "        if memory.holds(gpa, len(data)):",
        "        if not memory.holds(gpa, len(data)):",
        "tests/protocol/sources/test_foreign.py::test_data_go_where_the_structure_points",
    ),
    Canary(
        "reload forgets what a device owes",
        "mmiod/machine/serving.py",
        "        self.device, self.generation, self.failure = device, generation, None",
        "        self.device, self.generation, self.failure, self.owes = device, generation, None, None",
        "tests/plugins/test_reload.py::test_access_that_waits_is_answered_by_the_new_generation",
    ),
    Canary(
        "output of a device that is not in service",
        "mmiod/machine/held.py",
        "            self._held.append(partial(output, *arguments, **named))",
        "            output(*arguments, **named)",
        "tests/machine/test_handover.py::test_nothing_of_a_device_that_is_not_put_in_service_gets_out",
    ),
    Canary(
        "state lost in a reload",
        "mmiod/machine/snapshot.py",
        "    if dropped and not drop:",
        "    if dropped and drop:",
        "tests/plugins/test_reload.py::test_removed_register_and_field_need_migrate",
    ),
    Canary(
        "old generations kept",
        "mmiod/plugins/reload.py",
        "            await trio.to_thread.run_sync(forget, oldest.plugin.__module__)",
        "            await trio.lowlevel.checkpoint()",
        "tests/plugins/test_reload.py::test_old_classes_are_collected",
    ),
    Canary(
        "hook that fails on a recent access let in",
        "mmiod/plugins/check.py",
        "            raise self._rejected(failed, reason, HOOK)",
        "            del reason",
        "tests/plugins/test_reload.py::test_failure_on_a_recent_access_is_rejected",
    ),
    Canary(
        "plugin read again after its check",
        "mmiod/plugins/loader.py",
        "        found = self.files.get(path)\n",
        "        found = None\n",
        "tests/plugins/test_reload.py::test_what_was_checked_is_what_is_loaded",
    ),
    Canary(
        "input that failed is lived through again",
        "mmiod/machine/journal.py",
        "            del self.entries[self.last :]",
        "            del self.entries[self.last + 1 :]",
        "tests/machine/test_restart.py::test_device_comes_back_as_it_was_before_the_input_that_failed",
    ),
    Canary(
        "journal is not cut",
        "mmiod/machine/serving.py",
        "if load > LIMIT and (load > PATIENT_LIMIT or not self.device.working) and not self.cut():",
        "if load < 0 and not self.cut():",
        "tests/machine/test_restart.py::test_journal_is_bounded_and_cut_at_snapshots",
    ),
    Canary(
        "first turns unwatched",
        "mmiod/core/pump.py",
        "        self.working.set()  # the first turns",
        "        # the first turns",
        "tests/core/test_pump.py::test_first_turns_are_under_the_watchdogs_eyes",
    ),
    Canary(
        "a worker's types unchecked",
        "mmiod/plugins/process/effects.py",
        "all(isinstance(given, kind) for given, kind in zip(arguments, kinds, strict=True))",
        "all(given is given for given, _ in zip(arguments, kinds, strict=True))",
        "tests/plugins/test_process.py::test_worker_that_lies_is_quarantined_and_nothing_else_happens",
    ),
    Canary(
        "a worker reads all files",
        "mmiod/plugins/process/confinement.py",
        "    _call(RESTRICT_SELF, ruleset, 0)\n",
        "",
        "tests/plugins/test_confinement.py::test_confined_process",
    ),
    Canary(
        "descriptors given to the first message of a chunk",
        "mmiod/protocol/vfio_user/frames.py",
        "                self._last = begun = Message()",
        "                self._last = Message()\n                begun = begun or self._last",
        "tests/protocol/vfio_user/test_frames.py"
        "::test_descriptors_belong_to_the_last_message_that_begins_in_a_chunk",
    ),
    Canary(
        "region one byte too long for a client",
        "mmiod/protocol/vfio_user/requests.py",
        "0 < count <= shape.regions[region] - offset",
        "0 < count <= shape.regions[region] - offset + 1",
        "tests/protocol/vfio_user/test_session.py::test_accesses_outside_of_a_region",
    ),
    Canary(
        "INTx that does not mask itself",
        "mmiod/attach/interrupts.py",
        "            self.masked = self.tell(INTX, 0)",
        "            self.tell(INTX, 0)",
        "tests/attach/test_function.py::test_intx_is_a_level_that_masks_itself",
    ),
    Canary(
        "memory kept when its client has gone",
        "mmiod/attach/function.py",
        "        self.maps.memory.clear()\n",
        "",
        "tests/attach/test_function.py::test_nothing_is_left_of_a_client",
    ),
    Canary(
        "second client taken for the first",
        "mmiod/attach/function.py",
        "session.busy = self.client is not None and self.client is not visit",
        "session.busy = False",
        "tests/attach/test_function.py::test_a_second_client_is_refused_at_once",
    ),
    Canary(
        "messages done before the one that waits",
        "mmiod/attach/function.py",
        "            if self.held or visit.flight is not None or not stream.ready:\n",
        "            if self.held or not stream.ready:\n",
        "tests/attach/test_function.py::test_an_answer_comes_when_the_device_has_it",
    ),
)
