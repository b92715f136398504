// Deliveries: what came from outside, live, and what became of each.
import type { Schemas } from "../api/client";
import { useChanges } from "../api/live";
import { here, search, to } from "../app/router";
import { Head, Id, Status, Time } from "../ui/parts";
import { type Column, Table, useRows } from "../ui/table";

type Delivery = Schemas["DeliveryView"];

const COLUMNS: Column<Delivery>[] = [
  { name: "Source", width: "minmax(8rem, 1.500fr)", show: (one) => one.source_name ?? <Id of={one.source} /> },
  { name: "Type", width: "minmax(7rem, 1.500fr)", minor: true, show: (one) => one.type ?? "" },
  { name: "Status", width: "minmax(6.5rem, 1fr)", show: (one) => <Status of={one.status} /> },
  { name: "Came", width: "7rem", show: (one) => <Time at={one.received_at} /> },
  { name: "Runs", width: "4rem", minor: true, show: (one) => one.runs.length || "" },
  { name: "Why", width: "minmax(8rem, 2fr)", minor: true, show: (one) => one.reason ?? "" },
];

export default function Deliveries() {
  const query = here.value.searchParams;
  const [status, source] = [query.get("status") ?? undefined, query.get("source") ?? undefined];
  const rows = useRows("list_deliveries", { query: { status, source } as never }, (one) => one.id);
  useChanges("stream:WEBHOOKS OR stream:EVENTS OR type:run.*", rows.refresh);
  return (
    <>
      <Head title="Deliveries" />
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <label>Source <input type="search" value={source ?? ""} onChange={(event) => search({ source: event.currentTarget.value })} /></label>
        <label>Status <input list="delivery-statuses" value={status ?? ""} onChange={(event) => search({ status: event.currentTarget.value })} /></label>
      </form>
      <Table of={rows} columns={COLUMNS} keyOf={(one) => one.id} href={(one) => to(`/deliveries/${one.id}`)} label="Deliveries" empty="Nothing has come. A source has the URL that a sender is given." />
    </>
  );
}
