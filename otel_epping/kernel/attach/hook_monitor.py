# SPDX-License-Identifier: Apache-2.0
"""Watches the hooks that hold the program: that an interface is attached to means that its packets are seen.

Each second, for each direction of each interface:

taken away   Our program is not on the hook, or another program is in its link: it is attached again.
overtaken    Another program came to the hook and may run before ours: ours moves to the front. After a few moves within
             some minutes, ours moves only if packets are missing, and waits longer each time, so that two programs that
             both want to be first do not take turns for ever. Agents of this namespace announce themselves, so that
             two agents do not compete (other_agents.py).
unseen       The kernel counts packets on the interface (`ip -s link`) that we do not count. Which difference means that
             packets are hidden from us depends on what else is known: see _cause().

While packets are hidden or the program is off a hook, and for some seconds after, the interface has a fault: the agent
is not ready. Each fault is logged when it begins, with cause and cure, and when it ends.
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

_log = logging.getLogger("otel_epping")

_EVERY_S = 1.0
_SHARED_BLOCK = -1  # TCM_IFINDEX_MAGIC_BLOCK, linux/rtnetlink.h: filters of several interfaces
# An agent that comes first says so right after: until then a program that came may be an agent's.
_PEER_S = 0.3
# Packets in a window that are too many for chance if there is no reason to suspect; and on a bond, whose ports may each
# send and receive a packet a second by themselves (LACP).
_MANY, _MANY_OF_BOND = 20, 100
_UNASKED_MOVES = 3

PacketsSeen = Callable[[Sequence[int]], npt.NDArray[Any]]


class HookMonitor:
    """Looks after the hooks of all interfaces that are watched. Not for two threads at once.

    `packets_seen` gives what we counted, received and transmitted, for each of some numbers of interfaces.
    """

    def __init__(self, attachments: Attachments, packets_seen: PacketsSeen) -> None:
        self._attachments, self._packets_seen = attachments, packets_seen
        self._changes = traffic_control.FilterChanges() if attachments.hook == "clsact" else None
        self._states: dict[tuple[str, str], HookState] = {}
        self._next_s = 0.0
        self._missed = False  # changes, in a look that failed

    def close(self) -> None:
        """Ends it, and counts what the kernel counted until now."""
        with suppress(OSError):
            self._count(time.monotonic())
        if self._changes:
            self._changes.close()

    def wait_s(self) -> float:
        """How long until look() is to be called."""
        return max(0.0, self._next_s - time.monotonic())

    def look(self) -> bool:
        """Looks at all hooks if it is time; whether there are other faults than before."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + _EVERY_S
        changed = self._changes.read() if self._changes else None
        peers = self._attachments.peers.heard()
        had = self._attachments.faults
        try:
            counted = self._count(now_s)
        except OSError as error:  # no descriptor or no memory is left
            text = f"the hooks of interfaces cannot be looked at: {error}: the agent tries again each second"
            if had != (text,):
                _log.warning("%s", text)
            self._attachments.faults, self._missed = (text,), True
            return had != (text,)
        if self._missed:
            changed, self._missed = None, False
        for state, hook in counted:
            # Messages of the kernel say where filters changed. TCX has no messages, and answers within some us.
            is_changed = changed is None or bool({state.ifindex, _SHARED_BLOCK} & changed)
            with suppress(OSError):  # the interface is gone
                self._look_at(state, hook, is_changed, state.ifindex in peers, now_s)
        faults = tuple(state.fault for state in self._states.values() if state.fault)
        self._attachments.faults = faults
        return had != faults

    def _count(self, now_s: float) -> list[tuple[HookState, Hook]]:
        """Takes in the counts of the kernel and of the program for each hook. Raises OSError."""
        hooks = list(self._attachments.hooks())
        kernel = links.packet_counts(dict.fromkeys(ifindex for _, ifindex, *_ in hooks))
        numbers = sorted({number for _, _, number, *_ in hooks})
        seen = dict(zip(numbers, self._packets_seen(numbers).tolist(), strict=True)) if numbers else {}
        before, self._states = self._states, {}
        counted = []
        for name, ifindex, number, direction, hook in hooks:
            if ifindex not in kernel:  # it is gone, which the follower hears of
                continue
            state = before.get((name, direction))
            if state is None or (state.ifindex, state.number) != (ifindex, number):
                state = HookState(name, direction, ifindex, number, now_s)
                self._begin(state, hook)
            place = DIRECTIONS.index(direction)
            state.count(kernel[ifindex][place], seen[number][place], now_s)
            self._attachments.count_kernel_packets(name, place, state.gained)
            self._states[name, direction] = state
            counted.append((state, hook))
        return counted

    def _begin(self, state: HookState, hook: Hook) -> None:
        """What is known of a hook when the program was put there."""
        with suppress(OSError):
            if not hook.may_come_first():
                state.others = hook.others_first()
                _warn_of_others(state)
            if state.direction == "ingress" and (warning := other_programs.warning_of(links.device(state.ifindex))):
                _log.warning("%s: %s", state.name, warning, extra={"interface": state.name})

    def _look_at(self, state: HookState, hook: Hook, is_changed: bool, is_peer: bool, now_s: float) -> None:
        if is_changed or state.is_short or state.fault or state.overtaken_s is not None:
            if not hook.holds():
                self._attach_again(state, now_s)
                return
            self._mind_others(state, hook, is_peer, now_s)
        if cause := self._cause(state):
            if not state.is_blind:
                self._attachments.counts["unseen"] += 1
                state.fail(f"{state.where}: the kernel counts packets that we do not see: {cause}", is_blind=True)
                _log.warning("%s", state.fault, extra=_extra(state))
        elif state.fault and state.is_over(now_s):
            if state.is_blind:
                _log.warning("%s: packets are seen again", state.where, extra=_extra(state))
            state.fail("")

    def _attach_again(self, state: HookState, now_s: float) -> None:
        """Our program was taken from the hook."""
        state.others, state.overtaken_s = "", None
        if not state.attaching.may(now_s):
            state.fail(state.refusal or f"{state.where}: another process took our program off again: the agent waits")
            return
        state.attaching.took(now_s)
        try:
            self._attachments.attach_again(state.name, state.direction)
        except (EppingError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENODEV:
                return  # the interface is gone, which the follower hears of
            why = (isinstance(error, OSError) and error.strerror) or str(error)
            text = f"{state.where}: another process took our program off, and it cannot be attached again: {why}"
            if text != state.refusal:
                _log.warning("%s", text, extra=_extra(state))
            state.refusal = text
            state.fail(text)
            return
        state.refusal = ""
        self._attachments.counts["reattached"] += 1
        text = f"{state.where}: another process took our program off: attached again"
        if state.attaching.count > 1:
            text += (
                f" ({state.attaching.count} times in some minutes; the next time after {state.attaching.wait_s:g} s): "
                "find that process with bpftool net show and tc monitor"
            )
        _log.warning("%s", text, extra=_extra(state))
        state.hold(f"{text}; packets may have been missed", now_s)

    def _mind_others(self, state: HookState, hook: Hook, is_peer: bool, now_s: float) -> None:
        """Moves to the front if other programs came there."""
        others, is_short = hook.others_first(), state.is_short
        if others and is_peer and not is_short:
            hook.accept_others()
            others = hook.others_first()
        if not others:
            state.know_first()
            # We see nothing, so a move cannot do harm. The list may have changed without our notice: another program
            # came together with an agent, or the revision could not be found out.
            if state.is_blind and hook.may_come_first() and state.moving.may(now_s):
                state.moving.took(now_s)
                hook.come_first()
        if not others or not hook.may_come_first():
            state.overtaken_s = None
            if others != state.others:
                state.others = others
                _warn_of_others(state)
            return
        if state.overtaken_s is None:
            state.overtaken_s = now_s
        if not state.moving.may(now_s) or (state.moving.count >= _UNASKED_MOVES and not is_short):
            return
        if not is_short and now_s - state.overtaken_s < _PEER_S:
            self._next_s = min(self._next_s, now_s + _PEER_S)
            return
        state.moving.took(now_s)
        hook.come_first()
        state.overtaken_s = None
        self._attachments.counts["moved"] += 1
        text = f"{state.where}: {others} {'hid packets from us' if is_short else 'may run before us'}"
        text += ": moved to the front of the hook"
        if state.moving.count >= _UNASKED_MOVES:
            text += "; from now on only if packets are missing"
        level = logging.WARNING if is_short else logging.INFO
        _log.log(level, "%s; otel-epping check -i %s shows all programs", text, state.name, extra=_extra(state))
        if is_short:
            state.hold(text, now_s)

    def _cause(self, state: HookState) -> str:
        """Why packets are not seen, and the cure; '' if they are."""
        if state.number == UNKNOWN_INTERFACE:  # its counts are those of all interfaces without a number
            return ""
        if (state.others or state.overtaken_s is not None) and state.is_short:
            who = state.others or "a program that came to the hook later"
            return f"{who} runs before us: {_cure(who)} (otel-epping check -i {state.name} shows the order)"
        if state.unseen < FEW:
            return ""
        device = links.device(state.ifindex)
        limit = (
            FEW if other_programs.is_suspect(device) else _MANY_OF_BOND if device.kind in ("bond", "team") else _MANY
        )
        return other_programs.likely_cause(state.name, device) if state.unseen >= limit else ""


def look_in_background(monitor: HookMonitor) -> Callable[[], None]:
    """Starts a thread that looks at the hooks, where no main loop does. Returns what ends thread and monitor."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(monitor.wait_s()):
            monitor.look()
        monitor.close()

    thread = threading.Thread(target=look, name="epping-hooks", daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()

    return end


def _extra(state: HookState) -> dict[str, str]:
    return {"interface": state.name, "direction": state.direction}


def _cure(others: str) -> str:
    """How to be before other programs. Our clsact filter cannot be before a TCX program."""
    return "use --hook auto" if others.startswith("TCX program") else "give it a later place, behind us"


def _warn_of_others(state: HookState) -> None:
    if state.others:
        _log.warning(
            "%s: filters of others are first: %s; what they accept, drop or redirect is not seen: %s",
            state.where,
            state.others,
            _cure(state.others),
            extra=_extra(state),
        )
