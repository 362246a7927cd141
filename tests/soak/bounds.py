"""Every limit and tolerance of the soak test, each with its reason. Times are in seconds."""

from __future__ import annotations

from typing import Final

from mcp_pool import HealthCheck, RestartPolicy

# The pool's settings. All of them are short, so that every limit is reached many times a minute.

CONNECT_TIMEOUT: Final = 6.0
"""The slowest server without faults, the SDK's, needs 2 s on a busy machine."""
OPEN_TIMEOUT: Final = 30.0
"""All servers start at once, on as few as two processors."""
WAIT_TIMEOUT: Final = 4.0
"""Longer than most outages, so that most calls get the next connection; shorter than some."""
CALL_TIMEOUT: Final = 2.0
"""Longer than any tool that returns is silent; shorter than most of the times for which a process is stopped."""
MAX_CALL_TIME: Final = 4.0
"""Longer than any tool that returns takes."""
CLOSE_TIMEOUT: Final = 1.5
"""A stubborn server uses all of it whenever it ends."""
RESTART: Final = RestartPolicy(initial_delay=0.1, max_delay=2.0, stable_after=5.0)
HEALTH: Final = HealthCheck(interval=1.0, timeout=1.0, failure_threshold=2)
"""A process that is stopped for more than 3 s is detected; one that is stopped for less is not."""
QUIET_HEALTH: Final = HealthCheck(interval=1.0, timeout=5.0, failure_threshold=3)
"""For servers without faults: the pauses of a busy machine must not look like silence."""
QUIET_CALL_TIMEOUT: Final = 30.0
"""Likewise."""
MAX_MESSAGE_SIZE: Final = 512 * 1024
"""In bytes. Small, so that a message that is too long costs little."""
MAX_IN_FLIGHT: Final = 4
"""For every second server: few enough that calls have to queue."""

# The load and the faults.

CALLERS: Final = 250
"""Tasks that call, enough for hundreds of calls in flight when servers are slow."""
PAUSE: Final = 1.0
"""The mean time between two calls of a task: with less, two processors are overloaded, and the limits test the machine."""
LONGEST_PAUSE: Final = 20 * PAUSE
"""The longest pause: with this mean, one in half a billion would be longer."""
FAULTERS: Final = 4
"""How many faults may be active at the same time."""
FAULT_PAUSE: Final = 0.6
"""The mean time between two faults of one task."""
LONGEST_WORK: Final = 1.0
"""How long a tool without progress may take: half of `CALL_TIMEOUT`, to leave room for a slow machine."""

# What must hold.

RESENDS: Final = 1
"""How often a call that may have run is sent again if `retry_safe` allows it, as documented."""
ROOM: Final = 8.0
"""What a busy machine may add to any time: a hang lasts forever and is detected all the same."""
CALL_BOUND: Final = WAIT_TIMEOUT + (1 + RESENDS) * MAX_CALL_TIME + ROOM
"""One wait for the server, and each time that the call may be sent, whether it is answered or not."""
CANCEL_BOUND: Final = ROOM
"""A cancelled caller only waits for the notification of the server, a tenth of a second."""
READY_BOUND: Final = (
    RESTART.max_delay + 2 * CONNECT_TIMEOUT + HEALTH.interval + HEALTH.timeout * HEALTH.failure_threshold + ROOM
)
"""Until every server has recovered: silence is detected, the longest back-off passes, an attempt that started too early
fails, and the next one succeeds."""
SILENCE_BOUND: Final = HEALTH.interval + HEALTH.timeout * HEALTH.failure_threshold + CLOSE_TIMEOUT + ROOM
"""Until a process that is silent forever has been detected and ended."""
MANAGE_BOUND: Final = 3 * CLOSE_TIMEOUT + 2 * CONNECT_TIMEOUT + ROOM
"""For a requested restart or removal: the old connection closes, perhaps after its calls have drained, and a new one
opens, perhaps after an attempt that is just failing."""
END_BOUND: Final = CLOSE_TIMEOUT + ROOM
"""For the end of the block, however many servers are stubborn: they all end at the same time."""
PAST_BOUND: Final = CALL_BOUND + LONGEST_PAUSE
"""For what is running when the time is up: a pause, then a call, a fault, or a block with its calls."""
LEFTOVER_BOUND: Final = 10.0
"""Until everything that has ended is gone from the system's lists: a leak stays forever."""
GUARDIAN_BOUND: Final = 5.0 + ROOM
"""Until the servers of a program that was killed have ended."""
PROOF_TIMEOUT: Final = 10.0
"""For one call that shows that a server has recovered."""
PROOF_BOUND: Final = 60.0
"""For the whole check of one server: all are checked at once, and the output of a flood has to be read first."""

MEMORY_GROWTH: Final = 0.10
"""The fraction by which the median of resident memory in the last quarter may exceed that of the second quarter: caches
and the allocator's arenas fill for some minutes after the start, but a leak with each call or fault adds more."""
MEMORY_GROWTH_BYTES: Final = 20 * 1024 * 1024
"""The same in bytes, whichever is more: bursts of long messages change the arenas by that much."""

SAMPLE_INTERVAL: Final = 0.5
"""Between two samples of memory, descriptors and tasks."""
IDLE_LOOKS: Final = 9
"""How many samples of an idle pool are taken; an odd number, so that one of them is the median."""
IDLE_INTERVAL: Final = 1.0
"""Between two of them: in total, three times as long as an idle connection is kept."""
IDLE_ROOM: Final = {"tasks": 10, "descriptors": 20}
"""What there may be at the end, before the block ends, in addition to what there was at the start: servers that are being
probed, and streams that a server had just rejected at the start."""
VIOLATIONS_SHOWN: Final = 30
"""How many are reported in full: when a promise is broken, it is often broken a thousand times."""
OVERTIME: Final = 240.0
"""For a whole run, in addition to its minutes: the sum of all limits before and after. If it takes longer, it hangs."""
