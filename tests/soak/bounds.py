"""Every bound and tolerance of the soak, each with its reason. Times in seconds."""

from __future__ import annotations

from typing import Final

from mcp_pool import HealthCheck, RestartPolicy

# What the pool is told. All of it is short, so that every bound is met many times in a minute.

CONNECT_TIMEOUT: Final = 6.0
"""The slowest server that is not harmed, the SDK's, needs 2 s on a busy machine."""
OPEN_TIMEOUT: Final = 30.0
"""All of them start at once, on as little as two processors."""
WAIT_TIMEOUT: Final = 4.0
"""Longer than most outages, so that calls meet the connection that comes after; shorter than some."""
CALL_TIMEOUT: Final = 2.0
"""Longer than any tool that answers takes between two activity; shorter than most stops of a process."""
MAX_CALL_TIME: Final = 4.0
"""Longer than any tool that answers."""
CLOSE_TIMEOUT: Final = 1.5
"""A stubborn server uses all of it at each end."""
RESTART: Final = RestartPolicy(initial_delay=0.1, max_delay=2.0, stable_after=5.0)
HEALTH: Final = HealthCheck(interval=1.0, timeout=1.0, failure_threshold=2)
"""A process that is stopped for more than 3 s is found out, one that is stopped for less is not."""
QUIET_HEALTH: Final = HealthCheck(interval=1.0, timeout=5.0, failure_threshold=3)
"""For servers that nobody harms: the pauses of a busy machine must not look like their silence."""
QUIET_CALL_TIMEOUT: Final = 30.0
"""Likewise."""
MAX_MESSAGE_SIZE: Final = 512 * 1024
"""In bytes. Small, so that a message that is too long costs little."""
MAX_IN_FLIGHT: Final = 4
"""For every other server: few enough that callers have to wait in line."""

# What happens.

CALLERS: Final = 250
"""Tasks that call, which makes hundreds of calls under way when servers are slow."""
PAUSE: Final = 1.0
"""The mean time between two calls of a task: with less, two processors are busy, and bounds measure the machine."""
LONGEST_PAUSE: Final = 20 * PAUSE
"""No pause is longer: of pauses of that mean, one in half a billion is."""
FAULTERS: Final = 4
"""Faults that may last at the same time."""
FAULT_PAUSE: Final = 0.6
"""The mean time between two faults of one of them."""
LONGEST_WORK: Final = 1.0
"""How long a tool may take that answers without progress: half of `CALL_TIMEOUT`, to leave room to a slow machine."""

# What must hold.

RESENDS: Final = 1
"""How often a call that may have run is sent again where `retry_safe` gives leave, as the documents say."""
ROOM: Final = 8.0
"""What a busy machine may add to anything: a hang lasts for ever, and is seen just as well."""
CALL_BOUND: Final = WAIT_TIMEOUT + (1 + RESENDS) * MAX_CALL_TIME + ROOM
"""One wait for the server, and each time that the call may be sent, answered or not."""
CANCEL_BOUND: Final = ROOM
"""A cancelled caller waits for nothing but a notice to the server, a tenth of a second."""
READY_BOUND: Final = (
    RESTART.max_delay + 2 * CONNECT_TIMEOUT + HEALTH.interval + HEALTH.timeout * HEALTH.failure_threshold + ROOM
)
"""Until every server is back: a silence is found out, the longest back-off passes, an attempt that began too early fails,
and the next one succeeds."""
SILENCE_BOUND: Final = HEALTH.interval + HEALTH.timeout * HEALTH.failure_threshold + CLOSE_TIMEOUT + ROOM
"""Until a process that is silent for ever has been found out and ended."""
MANAGE_BOUND: Final = 3 * CLOSE_TIMEOUT + 2 * CONNECT_TIMEOUT + ROOM
"""For a restart or a removal by hand: the old connection, perhaps with calls to be drained, says goodbye, and a new one
is connected, perhaps behind an attempt that is just failing."""
END_BOUND: Final = CLOSE_TIMEOUT + ROOM
"""For the end of the block, however many servers are stubborn: they all end at once."""
PAST_BOUND: Final = CALL_BOUND + LONGEST_PAUSE
"""For what is under way at the end of the time: a pause, then a call, a fault, or a block with its calls."""
LEFTOVER_BOUND: Final = 10.0
"""In which what was ended is gone from the lists of the system: a leak stays for ever."""
PROOF_TIMEOUT: Final = 10.0
"""For one call that proves that a server is back."""
PROOF_BOUND: Final = 60.0
"""For the whole proof of one server: all are proved at once, and one that a flood has filled is first read empty."""

MEMORY_GROWTH: Final = 0.10
"""The fraction by which the median of resident memory in the last quarter may exceed that of the second quarter: caches
and the allocator's arenas fill for some minutes after the start, and what leaks with each call or fault is more."""
MEMORY_GROWTH_BYTES: Final = 20 * 1024 * 1024
"""The same in bytes, whichever is more: bursts of long messages move the arenas by as much."""

SAMPLE_INTERVAL: Final = 0.5
"""Between two looks at memory, descriptors and tasks."""
STANDING_LOOKS: Final = 9
"""Looks at a pool in which nothing happens; an odd number, so that one of them is the median."""
STANDING_INTERVAL: Final = 1.0
"""Between two of them: together three times as long as an idle connection is kept."""
STANDING_ROOM: Final = {"tasks": 10, "descriptors": 20}
"""What may be there at the end, before the block is left, on top of what was there at the start: servers that are asked
whether they are there, and the streams that a server had just refused at the start."""
VIOLATIONS_SHOWN: Final = 30
"""How many are told in full: when a promise breaks, it often breaks a thousand times."""
OVERTIME: Final = 240.0
"""For a whole run, on top of its minutes: what it does before and after, all its bounds together; then it hangs."""
