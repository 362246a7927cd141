"""What differs by wire: how it opens, how it dies, and its last words.

* `stdio`: a process as a transport for `mcp.Client`
* `windows`: the SDK's own transport instead, where the system has no such pipes and groups
* `streamable`: streamable HTTP, in both eras
* `sse`: the older HTTP with SSE
* `notices`: messages over HTTP that nobody waits for
* `refusals`: what it means when a server does not shake hands
* `post_refusals`: what it means when a message that is posted over SSE is refused
* `inbox`: what a server says over SSE, on its stream and in its responses
* `redirects`: redirects within the origin of a server
* `exchange`: one request over HTTP, and what became of it
* `session_probe`: the one ping that settles whether a server knows a session
* `session`: what answers and refusals tell about a session
* `http_client`: the HTTP client of one server
* `authorization`: the authorization of one request
* `answers`: JSON-RPC messages in the bodies of HTTP responses
* `bodies`: bodies of HTTP responses, bounded and watched
* `tls`: the TLS contexts that clients share
* `standard_error`: what a server writes to standard error, kept and logged within bounds
* `read_ahead`: what a server has written and nobody has looked at yet
* `process`: a server's process, its three pipes, and the stages of ending it
* `exit`: the end of a process, when and with which status
* `lines`: bytes in, lines out
* `taps`: what stands on the two streams of a wire, and notes what passes
* `link`: what is known of one wire

An in-process server needs no transport of ours: `mcp.Client` takes the object itself.
"""
