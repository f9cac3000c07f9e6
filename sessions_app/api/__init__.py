"""The HTTP API. A thin door to `services`.

urls         the addresses
site         the API as a whole: its handlers, its routers
auth         whose key it is, what it may do and which sessions it sees
problems     the one error shape, for every status
validation   what does not fit, by the names that the client wrote
parser       a body as strict JSON
idempotency  the first answer again
pagination   lists by cursor
openapi      the document
schemas      what goes in and what comes out
sessions, messages, queues, health: the views
"""
