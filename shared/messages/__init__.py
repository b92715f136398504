"""Every message of Millrace: past-tense facts, declared once.

`@message("event.routed", key="source", by="events")` above a struct declares its type, which field is the key of its
subject, and which services may publish it. Subject, stream and permissions follow from that one line.
"""

from shared.messages.alert import AlertRaised
from shared.messages.audit import Audited
from shared.messages.catalog import (
    AdapterChanged,
    AdapterDeclaration,
    AdapterRemoved,
    FileChanged,
    FileRemoved,
    HistoryTrimmed,
    IdentityProviderChanged,
    IdentityProviderRemoved,
    ProviderChanged,
    ProviderRemoved,
    SecretChanged,
    SecretRemoved,
    WorkflowChanged,
    WorkflowRemoved,
)
from shared.messages.connection import (
    ConnectionAuthorized,
    ConnectionNeedsReauthorization,
    ConnectionRefreshed,
    ConnectionRefreshFailed,
    ConnectionRevoked,
)
from shared.messages.dead import DeadLettered
from shared.messages.declaration import DECLARATIONS, Declaration, Message, declaration_of, message
from shared.messages.event import (
    EventAccepted,
    EventDeferred,
    EventFiltered,
    EventHeld,
    EventOverdue,
    EventResumed,
    EventRouted,
    EventUnroutable,
)
from shared.messages.firing import ScheduleFailed, ScheduleFired, ScheduleMissed, ScheduleSkipped
from shared.messages.letter import LetterDiscarded, LetterReplayed
from shared.messages.line import LineChunk, Lines
from shared.messages.log import Logged
from shared.messages.registration import (
    RegistrationBegun,
    RegistrationConfirmed,
    RegistrationFailed,
    RegistrationNoticed,
    RegistrationRemoved,
    RegistrationState,
)
from shared.messages.removal import RemovalBegan, RemovalEnded
from shared.messages.replay import ReplayEnded, ReplayProgressed, ReplayRequested
from shared.messages.run import (
    AskedQuestion,
    AwaitedEvent,
    ConcurrencySlot,
    Resolved,
    RunAnswered,
    RunAsked,
    RunCancelled,
    RunCancelRequested,
    RunCrashed,
    RunError,
    RunEventMatched,
    RunExpired,
    RunFailed,
    RunReminded,
    RunRequested,
    RunResumed,
    RunSignalled,
    RunStarted,
    RunStepCompleted,
    RunSucceeded,
    RunTimedOut,
    RunUsage,
    RunWaiting,
    Wait,
)
from shared.messages.sync import BranchMoved, StartedPush, SyncAdvanced, SyncPushStarted, SyncState
from shared.messages.timer import TimerFired, TimerSet
from shared.messages.webhook import WebhookReceived, WebhookRefused
