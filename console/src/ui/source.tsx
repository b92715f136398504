// A file of the workspace: its code with what is wrong in it, compared with a version before.
import { useEffect, useState } from "preact/hooks";

import { asProblem, useAsked } from "../api/asked";
import { type Problem, address, may } from "../api/client";
import { Changes } from "./changes";
import { Code, type Note } from "./code";
import { inFull } from "./formats";
import { Loading, Refusal, Section } from "./parts";

/** The code of a file from a line on; it is asked for anew where `changes` is another. */
export function Source({ path, line, changes, notes = [] }: { path: string; line?: number; changes: string; notes?: Note[] }) {
  const history = useAsked("list_history", may("list_history") ? { query: { path, limit: 30 } as never } : null);
  const [against, setAgainst] = useState<string | null>(null);
  const now = useText(path, null, changes);
  const then = useText(against === null ? null : path, against, changes);
  const versions = history.data?.items ?? [];
  return (
    <Section
      title="Code"
      aside={
        <span class="actions">
          <code>{path}</code>
          {versions.length > 1 && (
            <select aria-label="Compare with" value={against ?? ""} onChange={(event) => setAgainst(event.currentTarget.value || null)}>
              <option value="">compare with…</option>
              {versions.slice(1).filter((one) => one.sha256).map((one) => <option key={one.version} value={one.version}>{inFull(one.at)}, {one.actor}{one.message ? `: ${one.message.slice(0, 60)}` : ""}</option>)}
            </select>
          )}
        </span>
      }
    >
      <Refusal problem={now.problem ?? then.problem} />
      {now.text === null ? now.problem ? null : <Loading /> : against === null ? <Code of={now.text} at={line} notes={notes} /> : then.text === null ? <Loading /> : <Changes from={then.text} to={now.text} />}
    </Section>
  );
}

/** The text of a file, as it is or as it was in a version; of no path nothing is asked. */
export function useText(path: string | null, version: string | null, changes = ""): { text: string | null; problem: Problem | null } {
  const [state, setState] = useState<{ text: string | null; problem: Problem | null }>({ text: null, problem: null });
  useEffect(() => {
    let gone = false;
    setState({ text: null, problem: null });
    if (path !== null)
      fetch(address("get_file", { path: { path }, query: { version: version ?? undefined } as never }), { credentials: "same-origin" })
        .then(async (answer) => {
          if (!answer.ok) throw new Error(`The file cannot be read: the gateway answered ${answer.status}.`);
          const text = await answer.text();
          if (!gone) setState({ text, problem: null });
        })
        .catch((error) => !gone && setState({ text: null, problem: asProblem(error) }));
    return () => {
      gone = true;
    };
  }, [path, version, changes]);
  return state;
}
