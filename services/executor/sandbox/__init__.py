"""Where customers' code runs. Readable on its own, as a threat model.

The author of a workflow is not trusted: not with another organization's data, not with ours, not with the machine's
time. What stands between is the kernel and nothing else; no filter looks at the code.

Who is where
    The *supervisor* (this package, inside the executor) holds credentials and speaks to bus and database. A *child* is
    one process that is exec'd, never forked, from it: it inherits no memory, no environment and no descriptor but its
    control socket and its output. It gives up user, group and privileges before it reads a job, serves one job and is
    killed.

What a child is believed
    Nothing about itself. Which run it serves follows from the descriptor; status, duration and usage come from clock,
    `wait4` and `/proc`. What it says arrives as length-capped frames that are decoded into typed structs (`frames`);
    the first answer decides, and anything that is no frame ends the attempt as crashed, reason "sandbox".

What tier "none" stops
    Reading the supervisor's environment, memory, descriptors and files (another user, private scratch, mode bits);
    gaining rights (no_new_privs); looking into a sibling's memory (not dumpable); floods of output, endless runs, hung
    and forking process groups; results and messages that no reader can hold; outliving the supervisor.

What tier "none" does not stop
    The network; signals to other children (they share a user); files that everybody may read, other bundles among them;
    a process that leaves the session and is orphaned; filling a disk. Where the supervisor is not root and children
    share its user, the walls between files and processes are missing too. The kernel tiers A and B, behind the same
    `Sandbox` interface, are for these.

Files: `jail` what a caller meets; `children` the pool; `process` one child; `attempt` the conversation with it;
`frames` the wire; `verdict` what an end means; `output` what the author prints; `ground` the files a child may see.
"""
