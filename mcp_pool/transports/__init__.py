"""What differs by wire: how it opens, how it dies, and its last words.

* `stdio`: a process as a transport for `mcp.Client`
* `windows`: the SDK's own transport instead, where the system has no such pipes and groups
* `process`: a server's process, its three pipes, and the stages of ending it
* `lines`: bytes in, lines out
* `link`: what is known of one wire, and the taps on its two streams

An in-process server needs no transport of ours: `mcp.Client` takes the object itself.
"""
