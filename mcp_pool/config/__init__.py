"""What users configure: specs, settings, policies, callbacks.

* `target`: one server of a pool, with the pool's defaults filled in
* `loading`: reads a configuration file
* `files`: configuration files of MCP hosts, read as they are
* `loaded`: a configuration file that was read
* `invalid`: what stands for a server whose configuration is invalid
* `servers`: a spec for each kind of server
* `expanded`: text that contains secret values
* `spec`: what all specs have in common
* `settings`: the pool's own settings, and the limits of one server
* `launch_limits`: how many servers that one package runner starts may be starting at once
* `callbacks`: user functions that answer servers' requests
* `policies`: when to restart, and when to probe
* `validation`: what makes a value invalid
"""
