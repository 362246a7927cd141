"""The task group: one child task per server, one cancel that ends them all.

* `block`: body first, then connections; the errors that leave it
* `supervisor`: admits servers, finds them, and ends them
* `waiting`: for an attempt, for one connection, for many
* `child_group`: a group of children and their registry: what one cancel ends
* `child`: connect, stay connected, ask the policy, wait, and again
* `connect_limiter`: how many servers connect at once
* `health`: probes of silent servers
* `restart`: the decision what follows a failure
* `registry`: the rows of the current servers, and those that have left
* `row`: one current server
* `events`: what happened, and a bounded broadcast of it
* `state`: the states of a server, and the legal moves between them
* `counters`: calls and restarts, by server id, for as long as there is the pool
"""
