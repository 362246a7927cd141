"""The task group: one child task per server, one cancellation that ends them all.

* `block`: ends the body first, then the connections, and decides which error leaves the block
* `config_watch`: follows a configuration file
* `reconcile`: makes the pool hold exactly the given servers
* `changes`: what applying a set of servers has done
* `supervisor`: adds servers, finds them, and ends them
* `waiting`: waits for an attempt, for one connection, or for many
* `child_group`: a group of children and their registry, ended by one cancellation
* `child`: connects, stays connected, asks the policy, waits, and starts over
* `connect_limiter`: limits how many servers connect at once, in all and for each package runner
* `health`: probes silent servers
* `refresher`: keeps what one server offers current
* `subscriber`: subscribes to resources of one server
* `restart`: decides what follows a failure
* `registry`: the rows of the current servers, and what is remembered of those that have left
* `row`: one current server
* `offering`: makes the offer of one server from its listings
* `offer`: what one server offers, as entries of the catalog
* `subscriptions`: what callers have subscribed to
* `events`: what happened, and a bounded broadcast of it
* `entries`: the entries of the catalog
* `names`: catalog names, valid for every model API
* `state`: the states of a server, and the legal transitions between them
* `counters`: calls and restarts by server id, for the lifetime of the pool
"""
