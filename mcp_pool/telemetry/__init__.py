"""Events and snapshots, as programs read them.

* `events`: the stream of events
* `snapshot`: the pool at one moment
"""
