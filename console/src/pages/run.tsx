// One run: what it was given, what it did and said, how it ended, what caused it and what it caused.
import { useEffect, useRef, useState } from "preact/hooks";

import { useAsked, written } from "../api/asked";
import { type Schemas, address, call, may } from "../api/client";
import { usePolled, useStream } from "../api/live";
import { go, to } from "../app/router";
import { Answer } from "../ui/answer";
import { Failure } from "../ui/failure";
import { Timeline } from "../ui/timeline";
import { bytes, duration, moment, short } from "../ui/formats";
import { Json } from "../ui/json";
import { Act, Copy, Dialog, Empty, Facts, Head, Id, Loading, Refusal, Section, Status, Time } from "../ui/parts";
import { Lines } from "../ui/lines";

type Run = Schemas["RunView"];
type Line = Schemas["LineView"];

const ENDED = new Set(["succeeded", "failed", "timed_out", "cancelled", "crashed"]);
// Lines that are kept in the page: more of them are in the logs.
const MOST = 20_000;
// Milliseconds for which lines are gathered before they are shown.
const TOGETHER = 50;
// Milliseconds between two looks at the steps of a run that goes on.
const STEPS = 4000;

export default function RunPage({ id = "" }: { id?: string }) {
  const first = useAsked("get_run", { path: { id } });
  const [run, setRun] = useState<Run | null>(null);
  const [lines, setLines] = useState<Line[]>([]);
  const [over, setOver] = useState(false);
  const came = useRef<Line[]>([]);
  const attempts = useAsked("get_attempts", { path: { id } });
  const steps = useAsked("get_steps", { path: { id }, query: { results: true } });
  const why = useAsked("get_why", { path: { id } });
  const shown = run ?? first.data ?? null;
  useStream(first.data ? address("stream_run", { path: { id } }) : null, ["state", "line", "end", "error"], (kind, data) => {
    if (kind === "line") {
      if (came.current.length === 0)
        setTimeout(() => {
          const fresh = came.current;
          came.current = [];
          setLines((was) => was.concat(fresh).slice(-MOST));
        }, TOGETHER);
      came.current.push(data as Line);
    } else if (kind === "state" || kind === "end") {
      setRun(data as Run);
      if (kind === "end") setTimeout(() => setOver(true), TOGETHER);
    }
  }, "end");
  const status = shown?.status;
  useEffect(() => {
    if (status === undefined) return;
    void attempts.again();
    void steps.again();
    void why.again();
  }, [status, shown?.attempt, shown?.waits.length]);
  // Of steps and of child runs the stream says nothing.
  const goesOn = shown !== null && !ENDED.has(shown.status);
  const hasChildren = steps.data?.items.some((one) => one.kind === "start");
  usePolled(() => {
    if (!goesOn) return;
    void steps.again();
    if (hasChildren) void why.again();
  }, STEPS);
  const known = new Map(why.data ? runsOf(why.data.items).map((one) => [one.id, one]) : []);
  if (first.problem && !shown) return <Refusal problem={first.problem} again={first.again} />;
  if (!shown) return <Loading />;
  return (
    <>
      <Head of={<><a href={to("/runs")}>Runs</a> / <Id of={id} /> <Copy text={id} what="Copy the id" /></>} title={shown.workflow}>
        <Status of={shown.status} />
        <Actions run={shown} />
      </Head>
      <Blocked run={shown} known={known} />
      {goesOn && shown.waits.some((one) => one.kind === "ask") && <Questions run={id} waits={shown.waits.length} />}
      <Section title="How it went"><Timeline run={shown} attempts={attempts.data?.items ?? []} steps={steps.data?.items ?? []} known={known} /></Section>
      {!goesOn && !shown.error && shown.reason && <div class="notice bad">{shown.reason}</div>}
      {shown.error && <Failure of={shown.error} at={attempts.data?.items.at(-1)?.started_at ?? shown.started_at} />}
      <div class="columns">
        <Section title="Input">{shown.erased ? <Empty>It was erased.</Empty> : shown.input_ref ? <Empty>It is too large to be shown here.</Empty> : <Json of={shown.input} />}</Section>
        <Section title="Result">{shown.result_ref ? <a href={address("get_result", { path: { id } })} download>Download {bytes(shown.result_bytes)}</a> : shown.status === "succeeded" ? <Json of={shown.result} /> : <Empty>{ENDED.has(shown.status) ? "It has none." : "Not yet."}</Empty>}</Section>
      </div>
      <Section title="Lines" aside={<a href={to("/logs", { q: `run:${id}` })}>In the logs</a>}><Lines of={lines} ended={over} /></Section>
      <div class="columns">
        <Section title="Causes and effects">{why.data ? <Tree of={why.data.items} here={id} /> : why.problem ? <Refusal problem={why.problem} again={why.again} /> : <Loading />}</Section>
        <Section title="Details">
          <Facts of={[
            ["Asked for", <Time at={shown.requested_at} />],
            ["By", <span title={shown.requested_by}>{short(shown.requested_by)}</span>],
            ["Started", shown.started_at && moment(shown.started_at)],
            ["Ended", shown.finished_at && moment(shown.finished_at)],
            ["Waited for a worker", duration(shown.queue_ms)],
            ["Took", duration(shown.duration_ms)],
            ["CPU", shown.usage && duration(shown.usage.cpu_ms)],
            ["Memory", shown.usage && `${shown.usage.max_rss_mb.toFixed(0)} MB`],
            ["Version", <Id of={shown.version} />],
            ["Delivery", shown.delivery && <Id of={shown.delivery} href={to(`/deliveries/${shown.delivery}`)} />],
            ["Parent", shown.parent && <Id of={shown.parent} href={to(`/runs/${shown.parent}`)} />],
            ["Again of", shown.rerun_of && <Id of={shown.rerun_of} href={to(`/runs/${shown.rerun_of}`)} />],
            ["Goes on from", shown.resumes && <Id of={shown.resumes} href={to(`/runs/${shown.resumes}`)} />],
            ["Resumed by", shown.resumed_by && <Id of={shown.resumed_by} href={to(`/runs/${shown.resumed_by}`)} />],
            ["Sandbox", shown.sandbox && Object.entries(shown.sandbox).map(([name, how]) => `${name}: ${how}`).join(", ")],
          ]} />
        </Section>
      </div>
    </>
  );
}

/** All runs of a chain. */
const runsOf = (of: Schemas["Cause"][]): Schemas["Cause"][] => of.flatMap((one) => [...(one.type === "run" ? [one] : []), ...runsOf(one.led_to)]);

function Blocked({ run, known }: { run: Run; known: Map<string, Schemas["Cause"]> }) {
  // What it asks people stands below, to be answered.
  const waits = run.waits.filter((one) => one.kind !== "ask");
  if (ENDED.has(run.status) || (waits.length === 0 && (!run.blocked_on || run.waits.length > 0))) return null;
  return (
    <div class="notice">
      {run.blocked_on && <p>It waits for {run.blocked_on}{run.until && <>, until <Time at={run.until} /></>}.</p>}
      <ul>{waits.map((one) => <li key={`${one.kind} ${one.name}`}>{one.kind} {one.kind === "run" ? <a href={to(`/runs/${one.name}`)}>{known.get(one.name)?.what ?? one.name}</a> : <strong>{one.name}</strong>}{one.where && <> where <code>{one.where}</code></>}{Object.keys(one.values ?? {}).length > 0 && <> for <code>{JSON.stringify(one.values)}</code></>}{one.until && <>, until <Time at={one.until} /></>}</li>)}</ul>
      {run.slot_held_by.length > 0 && <p>The slots of {run.concurrency_key} are held by {run.slot_held_by.map((one) => <Id key={one} of={one} href={to(`/runs/${one}`)} />)}.</p>}
    </div>
  );
}

/** What the run asks people, to be answered here. */
function Questions({ run, waits }: { run: string; waits: number }) {
  const asked = useAsked("list_approvals", { query: { run, status: "open" } });
  useEffect(() => void asked.again(), [waits]);
  return (
    <>
      <Refusal problem={asked.problem} again={asked.again} />
      {(asked.data?.items ?? []).map((one) => (
        <section key={one.id}>
          <h2 class="question"><a href={to(`/approvals/${one.id}`)}>{one.prompt}</a></h2>
          <Answer of={one} done={asked.again} />
        </section>
      ))}
    </>
  );
}

function Actions({ run }: { run: Run }) {
  const [asks, setAsks] = useState<"rerun" | "signal" | null>(null);
  const ended = ENDED.has(run.status);
  const path = { id: run.id };
  return (
    <>
      {!ended && may("cancel_run") && <Act kind="bad" confirm="The run is asked to stop where it is." does={() => call("cancel_run", { path })}>Cancel</Act>}
      {!ended && run.waits.some((one) => one.kind === "signal") && may("signal_run") && <button type="button" onClick={() => setAsks("signal")}>Send a signal</button>}
      {ended && run.status !== "succeeded" && !run.resumed_by && may("resume_run") && <Act does={async () => go(to(`/runs/${(await call("resume_run", { path, body: { version: "latest" } as never })).id}`))}>Resume with the latest code</Act>}
      {ended && may("rerun_run") && <button type="button" class="main" onClick={() => setAsks("rerun")}>Run again</button>}
      {asks === "rerun" && <Again run={run} close={() => setAsks(null)} />}
      {asks === "signal" && <Signal run={run} close={() => setAsks(null)} />}
    </>
  );
}

function Again({ run, close }: { run: Run; close: () => void }) {
  const was = JSON.stringify(run.input, null, 2);
  const [input, setInput] = useState(was);
  return (
    <Dialog title="Run again" close={close} wide>
      {run.input_ref ? <p>Its input is too large to be changed here: it runs again with the same.</p> : <label>Input <textarea rows={14} spellcheck={false} class="code" value={input} onInput={(event) => setInput(event.currentTarget.value)} /></label>}
      {input !== was && <p class="minor">With other input it is a run of its own, and counts for no delivery.</p>}
      <div class="actions">
        <Act kind="main" does={async () => {
          const made = await (input === was ? call("rerun_run", { path: { id: run.id } }) : call("create_run", { path: { name: run.workflow }, body: { input: written(input) } as never }));
          close();
          go(to(`/runs/${made.id}`));
        }}>{input === was ? "Run again" : "Run with this input"}</Act>
      </div>
    </Dialog>
  );
}

function Signal({ run, close }: { run: Run; close: () => void }) {
  const names = run.waits.filter((one) => one.kind === "signal").map((one) => one.name);
  const [name, setName] = useState(names[0] ?? "");
  const [data, setData] = useState("null");
  return (
    <Dialog title="Send a signal" close={close}>
      <label>Name <input list="signals" value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
      <datalist id="signals">{names.map((one) => <option key={one} value={one} />)}</datalist>
      <label>Data, as JSON <textarea rows={6} class="code" spellcheck={false} value={data} onInput={(event) => setData(event.currentTarget.value)} /></label>
      <div class="actions"><Act kind="main" does={async () => { await call("signal_run", { path: { id: run.id, name }, body: written(data) as never }); close(); }}>Send</Act></div>
    </Dialog>
  );
}

function Tree({ of, here }: { of: Schemas["Cause"][]; here: string }) {
  if (of.length === 0) return <Empty>Nothing else belongs to it.</Empty>;
  return (
    <ul class="tree">
      {of.map((one) => (
        <li key={one.message}>
          <span class={one.type === "run" && one.id === here ? "here" : undefined}>
            {one.id !== here && one.type in LEADS ? <a href={to(`/${LEADS[one.type]}/${one.id}`)}>{short(one.what)}</a> : short(one.what)}
            {one.status && <> <Status of={one.status} /></>} <small>{moment(one.time)}</small>
          </span>
          {one.led_to.length > 0 && <Tree of={one.led_to} here={here} />}
        </li>
      ))}
    </ul>
  );
}

// The pages of what is in a chain, by what it is.
const LEADS: Record<string, string> = { run: "runs", webhook: "deliveries" };
