"""The drill of webhooks: kill and pause each part in turn while webhooks stream in, then say what became of each of them."""
