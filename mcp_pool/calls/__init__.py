"""A call, from a name to a result.

* `lookup`: from a name in the catalog to the tool of a server
* `call`: one call, over the next connection where it may be sent again
* `wait_budget`: how long one call may wait
* `progress`: reports of progress on their way to the caller
"""
