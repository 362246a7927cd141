"""What every layer may use.

* `log_throttle`: lines of log about what may happen again and again
* `log`: the log, and no harm from a sink that raises
* `redaction`: secrets, taken out of whatever is shown
* `exceptions`: groups and chains of causes
* `loops`: the event loop that something belongs to
* `changed`: the one condition that waiters wait on
* `guard`: the boundary around user code
"""
