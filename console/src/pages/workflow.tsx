// One workflow: what it takes, its code, its runs; run now.
import { useEffect, useState } from "preact/hooks";

import { asProblem, useAsked } from "../api/asked";
import { type Problem, type Schemas, address, call, may } from "../api/client";
import type { Schema } from "../api/description";
import { useChanges } from "../api/live";
import { go, to } from "../app/router";
import { Code } from "../ui/code";
import { Changes } from "../ui/changes";
import { duration, inFull } from "../ui/formats";
import { Fields } from "../ui/form";
import { Dialog, Empty, Facts, Head, Id, Loading, Refusal, Section, Status, Time } from "../ui/parts";

export default function WorkflowPage({ name = "" }: { name?: string }) {
  const asked = useAsked("get_workflow", { path: { name } });
  const runs = useAsked("list_runs", { query: { workflow: name, limit: 15 } as never });
  const [starts, setStarts] = useState(false);
  useChanges(`workflow:${JSON.stringify(name)} type:run.*`, () => void runs.again());
  const one = asked.data;
  if (asked.problem && !one) return <Refusal problem={asked.problem} again={asked.again} />;
  if (!one) return <Loading />;
  return (
    <>
      <Head title={name} of={<a href={to("/workflows")}>Workflows</a>}>{may("create_run") && <button type="button" class="main" onClick={() => setStarts(true)}>Run now</button>}</Head>
      {one.doc && <p class="lead">{one.doc}</p>}
      {starts && <Start of={one} close={() => setStarts(false)} />}
      <Section title="Newest runs" aside={<a href={to("/runs", { workflow: name })}>All of them</a>}>
        {runs.data?.items.length === 0 && <Empty>It has not run yet.</Empty>}
        <ul class="lines">{(runs.data?.items ?? []).map((run) => <li key={run.id}><a href={to(`/runs/${run.id}`)}><Id of={run.id} /></a><Status of={run.status} /><span class="minor">{duration(run.duration_ms)}</span><Time at={run.requested_at} /></li>)}</ul>
      </Section>
      <Source of={one} />
      <Section title="Details">
        <Facts of={[["File", <code>{one.path}</code>], ["Function", `${one.function}, line ${one.line}`], ["Version", <Id of={one.version} />], ["Time limit", duration(one.timeout * 1000)], ["Retries", one.retries || null], ["Concurrency", one.concurrency], ["Schedule", one.policy?.schedule && (one.policy.schedule.cron ?? `every ${one.policy.schedule.every} s`)], ["Group", one.policy?.group], ["Changed", <Time at={one.updated_at} />]]} />
      </Section>
    </>
  );
}

function Source({ of }: { of: Schemas["WorkflowEntry"] }) {
  const history = useAsked("list_history", may("list_history") ? { query: { path: of.path, limit: 30 } as never } : null);
  const [against, setAgainst] = useState<string | null>(null);
  const now = useText(of.path, null, of.version);
  const then = useText(of.path, against, of.version);
  const versions = history.data?.items ?? [];
  return (
    <Section
      title="Code"
      aside={
        <span class="actions">
          <code>{of.path}</code>
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
      {now.text === null ? now.problem ? null : <Loading /> : against === null ? <Code of={now.text} at={of.line} /> : then.text === null ? <Loading /> : <Changes from={then.text} to={now.text} />}
    </Section>
  );
}

/** The text of a file, as it is or as it was in a version. */
function useText(path: string, version: string | null, changes: string): { text: string | null; problem: Problem | null } {
  const [state, setState] = useState<{ text: string | null; problem: Problem | null }>({ text: null, problem: null });
  useEffect(() => {
    let gone = false;
    setState({ text: null, problem: null });
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

function Start({ of, close }: { of: Schemas["WorkflowEntry"]; close: () => void }) {
  const [input, setInput] = useState<Record<string, unknown>>({});
  const [problem, setProblem] = useState<Problem | null>(null);
  const run = async () => {
    setProblem(null);
    try {
      const given = Object.fromEntries(Object.entries(input).filter(([, one]) => one !== undefined));
      go(to(`/runs/${(await call("create_run", { path: { name: of.name }, body: { input: given } as never })).id}`));
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  return (
    <Dialog title={`Run ${of.name}`} close={close} wide>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void run(); }}>
        <Fields schema={of.input_schema as Schema} value={input} change={setInput} faults={problem?.faults ?? []} path="input" />
        {Object.keys((of.input_schema as Schema).properties ?? {}).length === 0 && <Empty>It takes no input.</Empty>}
        {problem && <Refusal problem={problem} />}
        <div class="actions"><button class="main">Run</button></div>
      </form>
    </Dialog>
  );
}
