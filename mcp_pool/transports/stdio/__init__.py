"""Servers that run as processes.

* `transport`: a server over standard input and output, as a transport for the SDK
* `windows`: the SDK's own transport, with tracked streams
* `read_ahead`: what a server has written and nobody has read yet
* `process`: three pipes, a process group of its own, and the stages of ending it
* `exit`: the end of a process, and its status
* `guardian`: ends the servers if the program itself is killed
* `fork_cover`: what a forked child of the program must not hold
* `stderr`: the tail of standard error
* `lines`: bytes in, lines out
"""
