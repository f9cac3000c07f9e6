"""What one could use instead. Each worker does two row updates for a message, one before and one after a no-op send.

Celery, procrastinate and BullMQ are installed into `benchmarks/.peers` at their first use, from the package indexes
that pip and npm are set up for. `django_peer` is the least that a web server has to do, and `waha_stub` the engine of
both sides. All tables of peers are in the schema `peer`, which every round begins without.
"""
