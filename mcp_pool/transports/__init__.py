"""The wires to a server, and the state that all of them keep.

* `stdio`: servers that run as processes
* `http`: servers behind a URL
* `session_renewal_limit`: how often a session that only seems lost may be replaced
* `tracked_streams`: the two message streams of a wire, which record what passes through them
* `unreadable`: what happens to a line or an event that is not a message
* `channel`: what is known about one wire
* `unreadable_count`: how many lines or events could not be read
* `open_requests`: the requests that wait for an answer
* `corrections`: changes to results that the SDK would reject
* `answered_ids`: which requests an unreadable answer is for, and what is wrong with it
* `messages`: JSON-RPC messages from bytes
"""
