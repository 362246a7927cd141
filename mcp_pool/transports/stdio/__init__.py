"""Servers that run as processes.

* `transport`: a server over standard input and output, as a transport for the SDK
* `windows`: the SDK's own transport, with tracked streams
* `read_ahead`: a server's output that has not been handed on yet
* `process`: a server's process: its pipes, its process group, and how it is stopped
* `exit`: when a process exits, and with which status
* `session`: the process groups of a server's session
* `guardian`: ends the servers if the program itself is killed
* `fork_cover`: keeps the servers' pipes out of forked children of the program
* `stderr`: the tail of standard error
* `lines`: splits a stream of bytes into lines
"""
