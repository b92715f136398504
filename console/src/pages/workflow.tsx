// One workflow: what it takes, its code, its runs; run now.
import { useState } from "preact/hooks";

import { asProblem, useAsked } from "../api/asked";
import { type Problem, type Schemas, call, may } from "../api/client";
import { type Schema, resolved } from "../api/description";
import { hasCome, useChanges } from "../api/live";
import { go, to } from "../app/router";
import { duration, short } from "../ui/formats";
import { Fields } from "../ui/form";
import { Dialog, Empty, Facts, Head, Id, Loading, Refusal, Section, Status, Time } from "../ui/parts";
import { Source } from "../ui/source";

export default function WorkflowPage({ name = "" }: { name?: string }) {
  const asked = useAsked("get_workflow", { path: { name } });
  const runs = useAsked("list_runs", { query: { workflow: name, limit: 15 } as never });
  const problems = useAsked("list_problems", may("list_problems") ? {} : null);
  const mine = (problems.data?.items ?? []).filter((each) => each.path === asked.data?.path);
  // Counts changes of files: newer content that does not serve makes no version.
  const [edits, setEdits] = useState(0);
  const [starts, setStarts] = useState(false);
  useChanges(`(workflow:${JSON.stringify(name)} type:run.*) OR type:workflow.* OR type:file.*`, (types) => {
    if (hasCome(types, "run.")) void runs.again();
    if (hasCome(types, "file.")) setEdits(edits + 1);
    if (hasCome(types, "workflow.", "file.")) void Promise.all([asked.again(), problems.again()]);
  });
  const one = asked.data;
  if (asked.problem && !one) return <Refusal problem={asked.problem} again={asked.again} />;
  if (!one) return <Loading />;
  return (
    <>
      <Head title={name} of={<a href={to("/workflows")}>Workflows</a>}>{may("create_run") && <button type="button" class="main" onClick={() => setStarts(true)}>Run now</button>}</Head>
      {mine.some((each) => each.severity !== "warning") && <div class="notice bad" role="alert">What {one.path} has now does not serve: what runs is the version before.</div>}
      {one.doc && <p class="lead">{one.doc}</p>}
      {starts && <Start of={one} close={() => setStarts(false)} />}
      <Section title="Newest runs" aside={<a href={to("/runs", { workflow: name })}>All of them</a>}>
        {runs.data?.items.length === 0 && <Empty>It has not run yet.</Empty>}
        <ul class="lines">{(runs.data?.items ?? []).map((run) => <li key={run.id}><span><Id of={run.id} href={to(`/runs/${run.id}`)} /> <small>by {short(run.requested_by)}</small></span><Status of={run.status} /><span class="minor">{duration(run.duration_ms)}</span><Time at={run.requested_at} /></li>)}</ul>
      </Section>
      <Started by={one.name} />
      <Source path={one.path} line={one.line} changes={`${one.version} ${edits}`} notes={mine} />
      <Section title="Details">
        <Facts of={[["File", <code>{one.path}</code>], ["Function", `${one.function}, line ${one.line}`], ["Version", <Id of={one.version} />], ["Time limit", duration(one.timeout * 1000)], ["Retries", one.retries || null], ["Concurrency", one.concurrency], ["Schedule", one.policy?.schedule && (one.policy.schedule.cron ?? `every ${one.policy.schedule.every} s`)], ["Group", one.policy?.group], ["Changed", <Time at={one.updated_at} />]]} />
      </Section>
    </>
  );
}

/** The schedules and subscriptions that start a workflow. */
function Started({ by }: { by: string }) {
  const schedules = useAsked("list_schedules", may("list_schedules") ? { query: { limit: 1000 } } : null);
  const subscriptions = useAsked("list_subscriptions", may("list_subscriptions") ? { query: { limit: 1000 } } : null);
  const mine = { schedules: (schedules.data?.items ?? []).filter((one) => one.workflow === by), subscriptions: (subscriptions.data?.items ?? []).filter((one) => one.workflow === by) };
  return (
    <Section title="What starts it">
      <Refusal problem={schedules.problem ?? subscriptions.problem} />
      {schedules.data && subscriptions.data && mine.schedules.length + mine.subscriptions.length === 0 && <Empty>No schedule and no subscription.</Empty>}
      <ul class="lines">
        {mine.schedules.map((one) => <li key={one.id}><span><a href={to(`/schedules/${one.name}`)}>{one.name}</a> <small>{one.cron ?? `every ${duration((one.every ?? 0) * 1000)}`}</small></span><Status of={one.enabled ? "enabled" : "off"} />{one.next_at && <Time at={one.next_at} />}</li>)}
        {mine.subscriptions.map((one) => <li key={one.id}><span><a href={to(`/subscriptions/${one.name}`)}>{one.name}</a> <code>{one.event}</code> of {one.source_name ?? one.source}</span><Status of={one.enabled ? "enabled" : "off"} />{one.warnings.map((each) => <span key={each.message} class="wrong">{each.message}</span>)}</li>)}
      </ul>
    </Section>
  );
}

function Start({ of, close }: { of: Schemas["WorkflowEntry"]; close: () => void }) {
  const [input, setInput] = useState<Record<string, unknown>>({});
  const schema = resolved(of.input_schema as Schema);
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
        <Fields schema={schema} value={input} change={setInput} faults={problem?.faults ?? []} path="input" />
        {Object.keys(schema.properties ?? {}).length === 0 && <Empty>It takes no input.</Empty>}
        {problem && <Refusal problem={problem} />}
        <div class="actions"><button class="main">Run</button></div>
      </form>
    </Dialog>
  );
}
