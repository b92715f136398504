// Deliveries: what came from outside, live, and what became of each.
import { useState } from "preact/hooks";

import { type Schemas, call, may } from "../api/client";
import { useChanges } from "../api/live";
import { go, here, search, to } from "../app/router";
import { Act, Dialog, Head, Id, Status, Time } from "../ui/parts";
import { type Column, Table, useRows } from "../ui/table";

type Delivery = Schemas["DeliveryView"];

const COLUMNS: Column<Delivery>[] = [
  { name: "Source", width: "minmax(8rem, 1.200fr)", show: (one) => <>{one.source_name ?? <Id of={one.source} />}<small class="under">{ranOf(one).filter(([status]) => status !== "succeeded").map(([status, count]) => `${count > 1 ? `${count} ` : ""}${status.replace("_", " ")}, `)}{one.type ?? one.reason}</small></> },
  { name: "Type", width: "minmax(7rem, 1.200fr)", minor: true, show: (one) => one.type ?? <span class="none">none</span> },
  { name: "Status", width: "minmax(6.5rem, 1fr)", show: (one) => <Status of={one.status} /> },
  { name: "Came", width: "6rem", show: (one) => <Time at={one.received_at} /> },
  { name: "Runs", width: "minmax(12rem, 1.500fr)", minor: true, show: (one) => <Ran of={one} /> },
  { name: "Why", width: "minmax(8rem, 3fr)", minor: true, show: (one) => <span title={one.reason ?? undefined}>{one.reason}</span> },
];

/** How often the runs of a delivery ended how; one that was resumed by what resumed it. */
function ranOf({ runs }: Delivery): [string, number][] {
  const resumed = new Set(runs.map((run) => run.resumes));
  const counts = new Map<string, number>();
  for (const run of runs) if (!resumed.has(run.id)) counts.set(run.status, (counts.get(run.status) ?? 0) + 1);
  return [...counts];
}

function Ran({ of }: { of: Delivery }) {
  return (
    <>
      {ranOf(of).map(([status, count]) => <span key={status}>{count > 1 && `${count} `}<Status of={status} /> </span>)}
      {of.runs.some((run) => run.resumes) && "resumed "}
      {of.woken.length > 0 && `woke ${of.woken.length}`}
    </>
  );
}

const STATUSES = ["accepted", "routed", "filtered", "unroutable", "deferred", "held", "dead"];

export default function Deliveries() {
  const query = here.value.searchParams;
  const [status, source] = [query.get("status") ?? undefined, query.get("source") ?? undefined];
  const overdue = query.get("overdue") === "true";
  const [replays, setReplays] = useState(false);
  const rows = useRows("list_deliveries", { query: { status, source, overdue: overdue || undefined } as never }, (one) => one.id);
  useChanges("stream:WEBHOOKS OR stream:EVENTS OR type:run.*", rows.refresh);
  return (
    <>
      <Head title="Deliveries">{may("replay_deliveries") && <button type="button" onClick={() => setReplays(true)}>Deliver many again</button>}</Head>
      {replays && <Replay source={source} status={status} close={() => setReplays(false)} />}
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <label>Source <input type="search" placeholder="any" value={source ?? ""} onChange={(event) => search({ source: event.currentTarget.value })} /></label>
        <label>Status{" "}
          <select value={status ?? ""} onChange={(event) => search({ status: event.currentTarget.value })}>
            <option value="">any</option>
            {STATUSES.map((one) => <option key={one}>{one}</option>)}
          </select>
        </label>
        <label><input type="checkbox" checked={overdue} onChange={(event) => search({ overdue: event.currentTarget.checked ? "true" : undefined })} /> only overdue</label>
      </form>
      <Table of={rows} columns={COLUMNS} keyOf={(one) => one.id} href={(one) => to(`/deliveries/${one.id}`)} label="Deliveries" empty={status || source || overdue ? "None is like this." : <>Nothing has come. <a href={to("/sources")}>A source</a> has the address that a sender is given.</>} />
    </>
  );
}

function Replay({ source, status, close }: { source?: string; status?: string; close: () => void }) {
  const [since, setSince] = useState("");
  const [rate, setRate] = useState(10);
  const [all, setAll] = useState(false);
  return (
    <Dialog title="Deliver many again" close={close}>
      <p>Those of {source ? <strong>{source}</strong> : "every source"}{status ? <> that are <strong>{status}</strong></> : ""}, as they are filtered in the list.</p>
      <label>Received since <input type="datetime-local" required value={since} onInput={(event) => setSince(event.currentTarget.value)} /></label>
      <label>Deliveries a second <input type="number" min="0.01" max="500" step="any" value={rate} onInput={(event) => setRate(Number(event.currentTarget.value))} /></label>
      <label><input type="checkbox" checked={all} onChange={(event) => setAll(event.currentTarget.checked)} /> also what succeeded or goes on</label>
      <div class="actions"><Act kind="main" disabled={!since} does={async () => { await call("replay_deliveries", { body: { since: new Date(since).toISOString(), source, status, rate, all } as never }); close(); go(to("/operations")); }}>Begin</Act></div>
    </Dialog>
  );
}
