"""Servers behind a URL.

* `streamable`: streamable HTTP, in both protocols
* `sse`: the older HTTP with SSE
* `notifications`: messages that nobody waits for
* `post_rejections`: what a refused POST ends over SSE
* `session_probe`: one ping that settles suspicions against a session
* `redirects`: redirects within the origin
* `exchange`: one request, and what became of it
* `session`: what answers and rejections tell about a session
* `inbox`: messages of the server, and answers found in the bodies of POSTs
* `answers`: the answer in a body of any status
* `handshake_errors`: what it means when the handshake fails
* `client`: one HTTP client per server
* `authorization`: authorization of one request
* `responses`: bodies, read whole or watched while they stream
* `tls`: TLS contexts, one for each trust configuration
"""
