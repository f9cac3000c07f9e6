"""What one could use instead. Each does two row updates for a message, one before and one after a send that is a no-op.

Celery and BullMQ are installed into `benchmarks/.peers`, from the package indexes that pip and npm are set up for.
"""
