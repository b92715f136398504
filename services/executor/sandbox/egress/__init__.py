"""The only way from a run to a network: a proxy that the supervisor serves on the run's own listening socket.

A child has a network namespace with nothing in it but a loopback, or may connect to one port only; at the other end of that
port is `proxy`. The descriptor identifies the run, never anything that the run sends; where other processes can reach the
port too, the run's token is required besides.

A request names a host. Its name is judged; it is resolved, once; every address is judged; then a connection is made
to an address that was judged, by number. A name that is answered differently the next time changes nothing: there is
no next time. An address is judged by its value, so that no spelling of it (decimal, octal, inside IPv6) changes the verdict.

Files: `request` the head of a request, pure; `network` one run's policy and limits; `proxy` its connections, `connection` one of
them, `relay` the bytes of one. Names and addresses are judged by `shared.egress`.
"""
