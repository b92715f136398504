"""The drill of outages: what clients of the API and senders of webhooks are answered while a part is away or hangs."""
