"""What differs by wire: how it opens, how it dies, and its last words.

* `link`: what is known of one wire, and the taps on its two streams
* `lines`: bytes in, lines out
* `process`: a server's process, its three pipes, and the stages of ending it
* `stdio`: a process as a transport for `mcp.Client`

An in-process server needs no transport of ours: `mcp.Client` takes the object itself.
"""
