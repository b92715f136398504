// Runs: a live list, searched by what the list of the API takes.
import type { Schemas } from "../api/client";
import { useChanges } from "../api/live";
import { here, search, to } from "../app/router";
import { Durations } from "../ui/durations";
import { duration, short } from "../ui/formats";
import { Head, Id, Status, Time } from "../ui/parts";
import { type Column, Table, useRows } from "../ui/table";

type Run = Pick<Schemas["RunView"], "id" | "workflow" | "status" | "requested_at" | "duration_ms" | "requested_by">;

const kept = ({ id, workflow, status, requested_at, duration_ms, requested_by }: Schemas["RunView"]): Run => ({ id, workflow, status, requested_at, duration_ms, requested_by });

const STATUSES = ["queued", "delayed", "running", "waiting", "cancelling", "succeeded", "failed", "timed_out", "crashed", "cancelled", "expired"];
const COLUMNS: Column<Run>[] = [
  { name: "Workflow", width: "minmax(8rem, 2fr)", show: (run) => <>{run.workflow}<small class="under">{[duration(run.duration_ms), short(run.requested_by)].filter(Boolean).join(", ")}</small></> },
  { name: "Status", width: "minmax(7.25rem, 1fr)", show: (run) => <Status of={run.status} /> },
  { name: "Asked for", width: "6rem", show: (run) => <Time at={run.requested_at} /> },
  { name: "Took", width: "5rem", minor: true, number: true, show: (run) => duration(run.duration_ms) },
  { name: "By", width: "minmax(7rem, 1fr)", minor: true, show: (run) => <span title={run.requested_by}>{short(run.requested_by)}</span> },
  { name: "Run", width: "8rem", minor: true, show: (run) => <Id of={run.id} /> },
];

/** A time of this browser's zone, as the API takes it. */
const instant = (local: string | undefined): string | undefined => (local && !Number.isNaN(Date.parse(local)) ? new Date(local).toISOString() : undefined);

export default function Runs() {
  const query = here.value.searchParams;
  const [status, workflow] = [query.get("status") ?? undefined, query.get("workflow") ?? undefined];
  const [since, until] = [query.get("since") ?? undefined, query.get("until") ?? undefined];
  const rows = useRows("list_runs", { query: { status, workflow, since: instant(since), until: instant(until) } as never }, (run: Run) => run.id, kept);
  useChanges("type:run.*", rows.refresh);
  return (
    <>
      <Head title="Runs" />
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <label>Workflow <input type="search" placeholder="any" value={workflow ?? ""} onChange={(event) => search({ workflow: event.currentTarget.value })} /></label>
        <label>Status{" "}
          <select value={status ?? ""} onChange={(event) => search({ status: event.currentTarget.value })}>
            <option value="">any</option>
            {STATUSES.map((one) => <option key={one} value={one}>{one.replace("_", " ")}</option>)}
          </select>
        </label>
        <label>From <input type="datetime-local" value={since ?? ""} onChange={(event) => search({ since: event.currentTarget.value })} /></label>
        <label>To <input type="datetime-local" value={until ?? ""} onChange={(event) => search({ until: event.currentTarget.value })} /></label>
      </form>
      <Durations of={rows.rows} />
      <Table of={rows} columns={COLUMNS} keyOf={(run) => run.id} href={(run) => to(`/runs/${run.id}`)} label="Runs" empty={status || workflow || since || until ? "No run is like this." : <>Nothing has run yet. A webhook, a schedule or “Run now” at <a href={to("/workflows")}>a workflow</a> begins a run.</>} />
    </>
  );
}
