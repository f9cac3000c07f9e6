"""Use-cases. API, admin, commands, jobs and the worker are thin doors to the functions in here.

sessions        create, change, delete; pause, resume, start, stop
messages        submit; cancel, retry, resolve
worklist        what needs a person now
queue_overview  the queues with their sessions
phones          recipients as people type them
quiet_hours     silent hours as absolute times
audit           who did what
"""
