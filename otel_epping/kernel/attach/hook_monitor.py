# SPDX-License-Identifier: Apache-2.0
"""Monitors the hooks, to ensure that an attached program really sees the packets.

For each direction of each interface, the monitor checks three conditions each second:

detached   Our program is not on the hook, or another process put a different program in our link. The monitor attaches
           our program again.
overtaken  Another program was attached and may run before our program. The monitor moves our program to the front. The
           time between two moves increases. After three moves, the monitor moves our program only if packets are
           missing. So two programs that both try to be first do not alternate forever. After ten minutes without a
           move, the monitor counts the moves from 0 again. Agents in the same network namespace announce their
           attachments, so they do not compete (other_agents.py).
unseen     The kernel counts packets on the interface (`ip -s link`) that our program does not count. Too many unseen
           packets are a fault. The limit depends on the interface (see _cause()).

While an interface has a fault, the agent is not ready. An interface has a fault while packets are hidden or our program
is not attached to a hook. After the monitor has attached our program again, or has moved it because packets are
missing, the fault ends 3 s later. The monitor logs each fault once, with its cause and cure. The monitor also logs
when a fault caused by unseen packets has ended.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy.typing as npt

from otel_epping.errors import EppingError
from otel_epping.kernel.attach import other_programs
from otel_epping.kernel.attach.attachments import DIRECTIONS, UNKNOWN_INTERFACE, Attachments, Hook
from otel_epping.kernel.attach.hook_state import FEW, HookState
from otel_epping.kernel.netlink import links, traffic_control

_log = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_SHARED_BLOCK = -1  # TCM_IFINDEX_MAGIC_BLOCK (linux/rtnetlink.h): filters that several interfaces share.
# Another agent announces itself immediately after it attaches its program. When the monitor finds a new program, the
# announcement may not have arrived yet. So the monitor waits for 0.3 s before it moves our program.
_ANNOUNCEMENT_S = 0.3
# If no reason for unseen packets is known, an interface has a fault when at least _MANY packets are unseen. A bond has
# a fault when at least _MANY_ON_BOND packets are unseen, because each port of a bond may send and receive one LACP
# packet per second, and these packets do not pass the bond.
_MANY, _MANY_ON_BOND = 20, 100
# Maximum number of moves to the front while no packets are missing.
_MAX_FREE_MOVES = 3

PacketsSeen = Callable[[Sequence[int]], npt.NDArray[Any]]


class HookMonitor:
    """Monitors the hooks of all watched interfaces. Only one thread at a time may use the monitor.

    The function `packets_seen` takes a list of interface numbers. The function returns an array with one row for each
    interface. A row contains the numbers of received and transmitted packets that our program counted.
    """

    def __init__(self, attachments: Attachments, packets_seen: PacketsSeen) -> None:
        self._attachments, self._packets_seen = attachments, packets_seen
        self._changes = traffic_control.FilterChanges() if attachments.hook == "clsact" else None
        self._states: dict[tuple[str, str], HookState] = {}
        self._next_s = 0.0
        self._missed_changes = False  # true after a failed check, because the check loses notifications

    def close(self) -> None:
        """Adds the latest packet counts of the kernel to `kernel_packets`, and then closes the monitor."""
        with suppress(OSError):
            self._count(time.monotonic())
        if self._changes:
            self._changes.close()

    def wait_s(self) -> float:
        """Returns the time in seconds until check() is due."""
        return max(0.0, self._next_s - time.monotonic())

    def check(self) -> bool:
        """Checks all hooks if a check is due. Returns true if the faults have changed."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + _INTERVAL_S
        changed = self._changes.read() if self._changes else None
        announced = self._attachments.other_agents.receive()
        faults_before = self._attachments.faults
        try:
            counted = self._count(now_s)
        except OSError as error:  # no descriptors or memory left
            text = f"cannot check the hooks of interfaces ({error}): the agent tries again each second"
            if faults_before != (text,):
                _log.warning("%s", text)
            self._attachments.faults, self._missed_changes = (text,), True
            return faults_before != (text,)
        if self._missed_changes:
            changed, self._missed_changes = None, False
        for state, hook in counted:
            # The kernel sends notifications about changed filters, but not about changed TCX programs. A TCX link is
            # checked every second, because the check takes only a few microseconds.
            may_have_changed = changed is None or bool({state.ifindex, _SHARED_BLOCK} & changed)
            with suppress(OSError):  # the interface is gone
                self._check_hook(state, hook, may_have_changed, state.ifindex in announced, now_s)
        faults = tuple(state.fault for state in self._states.values() if state.fault)
        self._attachments.faults = faults
        return faults_before != faults

    def _count(self, now_s: float) -> list[tuple[HookState, Hook]]:
        """Updates the packet counts of the kernel and of our program for each hook. Raises OSError."""
        hooks = list(self._attachments.hooks())
        kernel = links.packet_counts(dict.fromkeys(ifindex for _, ifindex, *_ in hooks))
        numbers = sorted({number for _, _, number, *_ in hooks})
        seen = dict(zip(numbers, self._packets_seen(numbers).tolist(), strict=True)) if numbers else {}
        before, self._states = self._states, {}
        counted = []
        for name, ifindex, number, direction, hook in hooks:
            if ifindex not in kernel:  # the interface is gone: the interface monitor detaches from it
                continue
            state = before.get((name, direction))
            if state is None or (state.ifindex, state.number) != (ifindex, number):
                state = HookState(name, direction, ifindex, number, now_s)
                self._start(state, hook)
            index = DIRECTIONS.index(direction)
            state.count(kernel[ifindex][index], seen[number][index], now_s)
            self._attachments.count_kernel_packets(name, index, state.kernel_packets)
            self._states[name, direction] = state
            counted.append((state, hook))
        return counted

    def _start(self, state: HookState, hook: Hook) -> None:
        """Records and logs what may hide packets from our program.

        Called after our program was attached to the hook.
        """
        with suppress(OSError):
            if not hook.can_move_to_front():
                state.others = hook.programs_before()
                _warn_of_others(state)
            if state.direction == "ingress" and (warning := other_programs.warning_of(links.device(state.ifindex))):
                _log.warning("%s: %s", state.name, warning, extra={"interface": state.name})

    def _check_hook(
        self, state: HookState, hook: Hook, may_have_changed: bool, is_announced: bool, now_s: float
    ) -> None:
        """Checks one hook. `is_announced` is true if another agent announced an attachment to the interface."""
        if may_have_changed or state.misses_packets or state.fault or state.overtaken_s is not None:
            if not hook.is_attached():
                self._reattach(state, now_s)
                return
            self._move_if_overtaken(state, hook, is_announced, now_s)
        if cause := self._cause(state):
            if not state.is_blind:
                self._attachments.counts["unseen"] += 1
                state.fail(
                    f"{state.where}: the kernel counts packets that otel-epping does not see: {cause}", is_blind=True
                )
                _log.warning("%s", state.fault, extra=_extra(state))
        elif state.fault and state.is_over(now_s):
            if state.is_blind:
                _log.warning("%s: packets are seen again", state.where, extra=_extra(state))
            state.fail("")

    def _reattach(self, state: HookState, now_s: float) -> None:
        """Attaches our program again after another process has detached it."""
        state.others, state.overtaken_s = "", None
        if not state.reattaching.is_due(now_s):
            detached = f"{state.where}: another process detached otel-epping's program again"
            state.fail(state.refusal or f"{detached}: the agent waits before it attaches")
            return
        state.reattaching.record(now_s)
        try:
            self._attachments.reattach(state.name, state.direction)
        except (EppingError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENODEV:
                return  # the interface is gone: the interface monitor detaches from it
            why = (isinstance(error, OSError) and error.strerror) or str(error)
            text = (
                f"{state.where}: another process detached otel-epping's program, and it cannot be attached again: {why}"
            )
            if text != state.refusal:
                _log.warning("%s", text, extra=_extra(state))
            state.refusal = text
            state.fail(text)
            return
        state.refusal = ""
        self._attachments.counts["reattached"] += 1
        text = f"{state.where}: another process detached otel-epping's program: attached again"
        if state.reattaching.count > 1:
            text += (
                f" ({state.reattaching.count} times in some minutes; the next attempt after "
                f"{state.reattaching.wait_s:g} s): find that process with bpftool net show and tc monitor"
            )
        _log.warning("%s", text, extra=_extra(state))
        state.hold_fault(f"{text}; packets may have been missed", now_s)

    def _move_if_overtaken(self, state: HookState, hook: Hook, is_announced: bool, now_s: float) -> None:
        """Moves our program to the front if another program may run before our program."""
        others, misses_packets = hook.programs_before(), state.misses_packets
        if others and is_announced and not misses_packets:
            hook.accept_order()
            others = hook.programs_before()
        if not others:
            state.note_first()
            # In two cases, the agent does not notice that another program runs first: another agent attached a program
            # at the same time, or the revision of the hook's list is unknown. If our program sees no packets, the agent
            # assumes that another program runs first. Moving our program cannot do harm, because our program sees no
            # packets anyway.
            if state.is_blind and hook.can_move_to_front() and state.moving.is_due(now_s):
                state.moving.record(now_s)
                hook.move_to_front()
        if not others or not hook.can_move_to_front():
            state.overtaken_s = None
            if others != state.others:
                state.others = others
                _warn_of_others(state)
            return
        if state.overtaken_s is None:
            state.overtaken_s = now_s
        if not state.moving.is_due(now_s) or (state.moving.count >= _MAX_FREE_MOVES and not misses_packets):
            return
        if not misses_packets and now_s - state.overtaken_s < _ANNOUNCEMENT_S:
            self._next_s = min(self._next_s, now_s + _ANNOUNCEMENT_S)
            return
        state.moving.record(now_s)
        hook.move_to_front()
        state.overtaken_s = None
        self._attachments.counts["moved"] += 1
        effect = "hid packets from" if misses_packets else "may run before"
        text = f"{state.where}: {others} {effect} otel-epping: moved to the front of the hook"
        if state.moving.count >= _MAX_FREE_MOVES:
            text += "; from now on, the program is moved only if packets are missing"
        level = logging.WARNING if misses_packets else logging.INFO
        _log.log(level, "%s; otel-epping check -i %s shows all programs", text, state.name, extra=_extra(state))
        if misses_packets:
            state.hold_fault(text, now_s)

    def _cause(self, state: HookState) -> str:
        """Returns the reason why our program does not see packets, and the cure. Returns '' if packets are seen.

        If another program may run before our program, the fault starts when at least FEW packets and at least a tenth
        of all packets are missing. The fault also starts when the kernel has counted FEW, _MANY or _MANY_ON_BOND
        packets since our program last counted a packet. The kind of interface determines whether FEW, _MANY or
        _MANY_ON_BOND is used.
        """
        if state.number == UNKNOWN_INTERFACE:  # all interfaces without a number share one count
            return ""
        if (state.others or state.overtaken_s is not None) and state.misses_packets:
            others = state.others or "a program that was attached later"
            order = f"otel-epping check -i {state.name} shows the order"
            return f"{others} runs before otel-epping: {_cure(others)} ({order})"
        if state.unseen < FEW:
            return ""
        device = links.device(state.ifindex)
        limit = (
            FEW if other_programs.is_suspect(device) else _MANY_ON_BOND if device.kind in ("bond", "team") else _MANY
        )
        return other_programs.likely_cause(state.name, device) if state.unseen >= limit else ""


def check_in_background(monitor: HookMonitor, fold_newcomers: Callable[[], None]) -> Callable[[], None]:
    """Starts a thread that checks the hooks, for applications that use the collector without the agent.

    After each check, the thread calls `fold_newcomers`, which is EppingCollector.fold_newcomers.

    Returns a function that ends the thread. Before the thread ends, it closes the monitor.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(monitor.wait_s()):
            monitor.check()
            fold_newcomers()
        monitor.close()

    thread = threading.Thread(target=run, name="epping-hooks", daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()

    return end


def _extra(state: HookState) -> dict[str, str]:
    return {"interface": state.name, "direction": state.direction}


def _cure(others: str) -> str:
    """Returns the cure for a hook on which other programs run before our program.

    The cure depends on the hook, because a clsact filter cannot run before a TCX program.
    """
    return "use --hook auto" if others.startswith("TCX program") else "give it a place after otel-epping"


def _warn_of_others(state: HookState) -> None:
    if state.others:
        _log.warning(
            "%s: other programs run first: %s; packets that they accept, drop or redirect are not seen: %s",
            state.where,
            state.others,
            _cure(state.others),
            extra=_extra(state),
        )
