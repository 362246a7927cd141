"""What differs by wire, and what is known of any.

* `stdio`: servers that run as processes
* `http`: servers behind a URL
* `session_renewal_limit`: how often a session may be given up on mere evidence
* `tracked_streams`: the two streams of a wire, which note what passes
* `channel`: what is known of one wire
"""
