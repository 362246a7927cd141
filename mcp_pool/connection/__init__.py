"""One live client over one channel.

* `connect`: from an attempt to a connection, held by one task
* `connection`: its calls, and how it ends
* `attempt`: one connection attempt, and why it failed
* `call_errors`: how a call ended, as an error
* `dispatcher`: what stands between the SDK and the user's callbacks
* `calls_in_flight`: the calls that run on one connection, and the bounds of each
* `listing`: what one server offers, all pages
"""
