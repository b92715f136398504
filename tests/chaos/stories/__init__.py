"""The drill of stories: webhooks of many sources, repeated and out of order, while the events service is killed."""
