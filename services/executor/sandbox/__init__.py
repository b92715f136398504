"""Runs customers' code. Readable on its own, as a threat model.

The author of a workflow is not trusted: not with another organization's data, not with ours, not with the machine's
time. The kernel alone stands between; no filter looks at the code.

The processes
    The *supervisor* (this package, inside the executor) holds credentials and speaks to bus and database. The *zygote* is
    one process that is exec'd, never forked, from it: it inherits no memory, no environment and no descriptor but its
    control socket and its output. It gives up user, group and privileges, loads what every run needs, and then only forks
    and reaps; no author's code runs in it. A *template* is a fork of it for the runs of one organization and bundle, behind all
    walls that these may share; no author's code runs in it either. A *child* is a fork of one of them: it is born without rights,
    with a control socket and output of its own and nothing of its siblings, serves one job and is killed.

Trust in a child
    None. The descriptor identifies its run; status, duration and usage come from clock, `/proc` and the zygote's `wait4`. A
    child sends length-capped frames that are decoded into typed structs (`frames`); the first answer decides, and anything
    else ends the attempt as crashed, reason "sandbox".

Walls
    Tier A: namespaces of every kind, a new root with nothing but what a run needs, Landlock, a seccomp allowlist, no capabilities.
    Tier B, where namespaces are forbidden: Landlock and a narrower allowlist. A child tries each on this machine before any run
    uses it (`probing`). Where neither stands nothing is run, unless the operator chose "unsafe". docs/security.md lists row by
    row what each tier stops and does not stop. The child's own half is in the SDK: `_runtime/walls.py` (the order of the walls),
    `root.py` (files), `landlock.py`, `seccomp.py` and `syscalls.py` (calls), `probe.py` (the attacks).

Stopped by every tier
    Reading the supervisor's environment, memory and descriptors; gaining rights; looking into a sibling's memory or the zygote's;
    floods of output, endless runs, hung and forking process groups, daemons; results and messages that no reader can hold; trees
    of processes that take too much memory; outliving the supervisor; anything of one run that could reach the next.

Not stopped by tier "none"
    The network; signals to other children and to the zygote (they share a user): the attempts of a killed zygote are
    given back, never called crashed, but their leftovers survive it; world-readable files, other bundles
    among them; filling a disk. Where the supervisor is not root and children share its user, the walls between files and
    processes are missing too.

Files: `interface` what callers know; `children` all of it put together; `pool` the waiting children;
`probing` the tier of this machine; `fork_server` a forking process, `zygote` and `template` the two kinds of it, `templates` the
templates of all bundles; `birth` one fork, `reports` their reports; `process` one child; `attempt` the conversation with it;
`ration` bounds on talk; `frames` the wire; `requests` the requests of a run; `verdict` the meaning of an end; `output` the author's
prints; `masking` secrets left out of them; `egress` the way to a network; `memory` the use of a process tree, `cgroups` and
`hierarchies` the kernel's hold on it; `ground` the files a child may see.
"""
