"""One live client over one channel.

* `connect`: opens a connection, holds it and closes it, in one task
* `connection`: an open connection: its calls, and how it ends
* `attempt`: one connection attempt, and why it failed
* `server_info`: what a server said about itself in the handshake
* `discovery`: what a modern server said about itself, kept for the next connection
* `call_errors`: the errors of calls
* `dispatcher`: runs the user's callbacks
* `calls_in_flight`: the calls that run on one connection, and their deadlines
* `change_stream`: listens to a modern server for changes
* `list_changes`: what may have changed since it was listed
* `deadline_timer`: the deadlines of calls and attempts
* `listing`: what one server offers, each part listed whole
"""
