"""The ground of every service: messages, the bus, projections, HTTP; imports no service."""
