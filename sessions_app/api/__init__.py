"""The HTTP API: schemas, auth, views, and one error shape. A thin door to `services`."""
