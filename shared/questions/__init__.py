"""Questions and commands between services, with the shape of the answers.

`@question("oauth.token", by="executor")` above a `Question[Token]` is asked on `ask.oauth.token` and changes nothing;
`@command("events.put_source", …)` goes to `do.events.put_source` and is answered after its message is on disk. No subject is
typed by hand; permissions follow from `by`.
"""

# All of them are declared wherever any is known: permissions and services see the same table.
from shared.questions import (
    adapters,
    approvals,
    digests,
    environments,
    erasing,
    events,
    files,
    health,
    key_use,
    letters,
    logs,
    oauth,
    removing,
    replays,
    repositories,
    resources,
    rotation,
    runs,
    sign_in,
    state,
    workflows,
)
from shared.questions.declaration import (
    ASKED,
    MOST_ITEMS,
    PAGE_BYTES,
    Command,
    Done,
    Page,
    Position,
    Question,
    QuestionDeclaration,
    asked_of,
    command,
    cursor_after,
    fitting,
    question,
)
