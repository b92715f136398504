// Approvals: what workflows have asked people.
import type { Schemas } from "../api/client";
import { useChanges } from "../api/live";
import { here, search, to } from "../app/router";
import { Head, Status, Time } from "../ui/parts";
import { type Column, Table, useRows } from "../ui/table";

type Approval = Schemas["ApprovalView"];
const COLUMNS: Column<Approval>[] = [
  { name: "Question", width: "minmax(10rem, 3fr)", show: (one) => <>{one.prompt}<small class="under">{one.workflow}, <Time at={one.opened_at} /></small></> },
  { name: "Status", width: "minmax(6rem, 1fr)", show: (one) => <Status of={one.status} /> },
  { name: "Workflow", width: "minmax(6rem, 1fr)", minor: true, show: (one) => one.workflow },
  { name: "Asked", width: "minmax(6rem, 1fr)", minor: true, show: (one) => one.to.join(", ") },
  { name: "Opened", width: "6rem", minor: true, show: (one) => <Time at={one.opened_at} /> },
];

export default function Approvals() {
  const status = here.value.searchParams.get("status") ?? undefined;
  const rows = useRows("list_approvals", { query: { status } as never }, (one) => one.id);
  useChanges("type:run.*", rows.refresh);
  return (
    <>
      <Head title="Approvals" />
      <div class="filters"><label>Status <select value={status ?? ""} onChange={(event) => search({ status: event.currentTarget.value })}><option value="">any</option>{["open", "approved", "refused", "timed_out", "withdrawn"].map((one) => <option key={one} value={one}>{one.replace("_", " ")}</option>)}</select></label></div>
      <Table of={rows} columns={COLUMNS} keyOf={(one) => one.id} href={(one) => to(`/approvals/${one.id}`)} label="Approvals" empty={status ? "None is like this." : <>No workflow has asked anybody: one does with <code>await ask(…)</code>.</>} />
    </>
  );
}
