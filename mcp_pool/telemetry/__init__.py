"""Events and snapshots, as a program reads them.

* `events`: the stream of events
* `snapshot`: the pool at one moment
"""
