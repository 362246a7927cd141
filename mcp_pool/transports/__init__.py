"""The wires to a server, and the state that all of them keep.

* `stdio`: servers that run as processes
* `http`: servers behind a URL
* `session_renewal_limit`: how often a session that only seems lost may be replaced
* `tracked_streams`: the two message streams of a wire, which record what passes through them
* `channel`: what is known about one wire
"""
