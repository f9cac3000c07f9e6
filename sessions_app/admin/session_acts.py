"""What a person may do to sessions, in words."""

from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from sessions_app.admin.acts import Act
from sessions_app.admin.base import OPERATE_SESSION
from sessions_app.models import DesiredState, Hold

_ALIVE = Q(deleted_at=None)
_ACTIVE = _ALIVE & Q(desired_state=DesiredState.ACTIVE)
_PAUSED = _ALIVE & Q(desired_state=DesiredState.PAUSED)
_STOPPED = _ALIVE & Q(desired_state=DesiredState.STOPPED)
_HELD = _ACTIVE & ~Q(dispatch__hold=Hold.NONE)

PAUSE = Act(
    name="pause",
    label=_("Pause"),
    permission=OPERATE_SESSION,
    question=ngettext_lazy("Pause %d session?", "Pause %d sessions?"),
    report=ngettext_lazy("%d session was paused.", "%d sessions were paused."),
    effect=_(
        "Nothing more is sent until somebody resumes. Messages are still accepted, and wait in order. "
        "A message that is on its way just now is finished."
    ),
    fits=_ACTIVE,
)
RESUME = Act(
    name="resume",
    label=_("Resume"),
    permission=OPERATE_SESSION,
    question=ngettext_lazy("Resume %d session?", "Resume %d sessions?"),
    report=ngettext_lazy("%d session was resumed.", "%d sessions were resumed."),
    effect=_("What waits is sent, in order, at the session's pace. If waqueue held the session, the hold ends."),
    fits=_PAUSED | _HELD,
)
STOP = Act(
    name="stop",
    label=_("Stop"),
    permission=OPERATE_SESSION,
    question=ngettext_lazy("Stop %d session?", "Stop %d sessions?"),
    report=ngettext_lazy("%d session was stopped.", "%d sessions were stopped."),
    effect=_("Nothing more is sent until somebody starts it. Messages are still accepted, and wait in order."),
    fits=_ACTIVE | _PAUSED,
)
START = Act(
    name="start",
    label=_("Start"),
    permission=OPERATE_SESSION,
    question=ngettext_lazy("Start %d session?", "Start %d sessions?"),
    report=ngettext_lazy("%d session was started.", "%d sessions were started."),
    effect=_("What waits is sent, in order, at the session's pace."),
    fits=_STOPPED,
)
RESTART = Act(
    name="restart",
    label=_("Restart"),
    permission=OPERATE_SESSION,
    question=ngettext_lazy("Restart %d session?", "Restart %d sessions?"),
    report=ngettext_lazy("%d session was restarted.", "%d sessions were restarted."),
    effect=_("Its state is forgotten and asked of its engine anew, and a hold ends. What waits is sent, in order."),
    fits=_ACTIVE,
)
ACTS = (PAUSE, RESUME, STOP, START, RESTART)

PAUSE_EVERYTHING = Act(
    name="pause",
    label=_("Pause everything"),
    permission=OPERATE_SESSION,
    question=ngettext_lazy("Pause everything: %d session?", "Pause everything: %d sessions?"),
    report=PAUSE.report,
    effect=_(
        "Every session that is active now sends nothing more until somebody resumes it. "
        "Messages are still accepted, and wait in order. Those that are on their way just now are finished."
    ),
    fits=_ACTIVE,
    is_grave=True,
)
RESUME_EVERYTHING = Act(
    name="resume",
    label=_("Resume everything"),
    permission=OPERATE_SESSION,
    question=ngettext_lazy("Resume everything: %d session?", "Resume everything: %d sessions?"),
    report=RESUME.report,
    effect=_(
        "Every paused session goes on, also those that were paused one by one before. Stopped sessions stay stopped."
    ),
    fits=_PAUSED,
)
EVERYTHING = {act.name: act for act in (PAUSE_EVERYTHING, RESUME_EVERYTHING)}
