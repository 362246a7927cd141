"""What users say: specs, settings, policies, callbacks.

* `target`: what holds for one server of a pool
* `servers`: the specs of the kinds of servers
* `spec`: what they have in common
* `settings`: the pool's own settings, and the bounds of one server
* `launch_limits`: how many servers that one program starts may be starting at once
* `callbacks`: functions of the user's that servers call back
* `policies`: when to restart, and when to probe
* `validation`: what makes a value invalid
"""
