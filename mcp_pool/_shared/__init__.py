"""What every package may use.

* `log_throttle`: log lines about frequent events, limited in number
* `log`: the log, safe from sinks that raise
* `redaction`: masks secrets in everything that is shown
* `exceptions`: exception groups and chains of causes
* `loops`: the event loop that an object belongs to
* `changed`: the condition that waiters wait on
* `docs`: docstrings of classes with bases
* `readable`: the reason of an error, as a person or a model may read it
* `guard`: the boundary around user code
"""
