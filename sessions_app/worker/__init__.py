"""The worker: one asyncio loop that serves thousands of sessions, each in order and one at a time.

session_worker  the rq worker class that `manage.py rqworker` starts
dispatcher      the loop: claim, fence, send, settle, give back
fence           PostgreSQL decides what is sent and commits it
settle          the outcomes are written
outcomes        what an engine's answer means for a message
probes          ask the engines of held sessions whether they work again
suspects        messages that were in flight when a worker died, each tried alone
trial           the child process in which they are tried
children        how a worker starts child processes
upkeep          what comes round by the clock: heartbeat, promotion, stalled flights, stranded sessions
heartbeat       the worker's own sign of life
stalled         flights whose worker died
promotion       scheduled messages whose time has come
"""

from sessions_app.worker.session_worker import SessionWorker

__all__ = ["SessionWorker"]
