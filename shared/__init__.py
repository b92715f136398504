"""The ground of every service: messages, the bus, projections, HTTP; owned by nobody, importing no service."""
