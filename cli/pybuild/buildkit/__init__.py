"""BuildKit's control API: gRPC over HTTP/2 on connections that the daemon hands over, answered by our engine.

`wire` and `messages` are the encoding, `http2` and `grpc` the transport in both roles, `sessions` are the clients that
serve us files, secrets and results, `control` and `bridge` are the services. Nothing of it is imported before a client
asks for it.
"""
