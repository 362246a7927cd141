"""Servers behind a URL.

* `streamable`: streamable HTTP, on both protocols
* `sse`: the older HTTP with SSE
* `sse_stream`: the event stream over SSE
* `server_stream`: the stream for the server's own messages
* `notifications`: messages that nobody waits for
* `endpoint`: the URL for POSTs that a server over SSE names
* `post_rejections`: what a rejected POST means over SSE
* `session_probe`: the ping that decides whether a suspect session is lost
* `redirects`: redirects within the origin
* `exchange`: one request and its response
* `stream_pace`: how soon an event stream is opened again
* `session`: what answers and rejections say about a session
* `inbox`: messages from the server, including answers found in responses to POSTs
* `answers`: JSON-RPC messages in response bodies, whatever the status
* `event_streams`: event streams, parsed and watched as they pass
* `handshake_errors`: what a failed handshake means
* `status_errors`: what an error status or a redirect says
* `client`: one HTTP client per server
* `connecting`: why a server cannot be connected to
* `headers`: headers from a function, for each request
* `authorization`: authorization of one request
* `responses`: response bodies, read whole, and what headers say
* `tls_handshakes`: sockets whose TLS handshake is cancelled
* `tls`: one TLS context per trust configuration
* `environment`: settings of the environment that cannot be used
"""
