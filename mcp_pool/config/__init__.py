"""What users configure: specs, settings, policies, callbacks.

* `target`: one server of a pool, with the pool's defaults filled in
* `servers`: a spec for each kind of server
* `spec`: what all specs have in common
* `settings`: the pool's own settings, and the limits of one server
* `launch_limits`: how many servers that one package runner starts may be starting at once
* `callbacks`: user functions that answer servers' requests
* `policies`: when to restart, and when to probe
* `validation`: what makes a value invalid
"""
