"""The only room that knows Redis and RQ.

    keys         the names of all keys
    jobs         a message as an RQ job, in RQ's own format
    scripts      the Lua scripts, one file each in `lua/`
    connection   the clients: fail-fast for the web, patient for the worker
    mirror       what the web and people do: put, signal, take out
    dispatch     what the worker does: claim and give back
    inspect      what is there, for pages and reconciliation

Redis says when to look at a session, PostgreSQL says what is sent; the RQ queues are the mirror for people and tools.
"""
