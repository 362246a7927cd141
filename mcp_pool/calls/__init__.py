"""A call, from a name to a result.

* `lookup`: from a name in the catalog to what it stands for
* `refresh`: lists what a server offers again
* `requests`: the requests that users make of one server
* `call`: one call, including the wait for its server and a retry
* `subscribe`: a subscription to a resource
* `wait_budget`: how long one call may wait
* `progress`: delivers progress reports to the caller
"""
