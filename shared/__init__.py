"""What every service stands on: messages, the bus, projections, HTTP; owned by nobody, importing no service."""
