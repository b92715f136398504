// Dead letters: messages that a service could not deal with.
import type { Schemas } from "../api/client";
import { useChanges } from "../api/live";
import { here, search, to } from "../app/router";
import { Head, Status, Time } from "../ui/parts";
import { type Column, Table, useRows } from "../ui/table";

type Letter = Schemas["DeadLetterView"];
const COLUMNS: Column<Letter>[] = [
  { name: "Why", width: "minmax(10rem, 3fr)", show: (one) => <span title={one.error}>{one.error || one.reason}<small class="under">{one.service}, {one.type}</small></span> },
  { name: "Status", width: "minmax(6rem, 1fr)", show: (one) => <Status of={one.status} /> },
  { name: "Service", width: "minmax(5rem, 1fr)", minor: true, show: (one) => one.service },
  { name: "Type", width: "minmax(6rem, 1fr)", minor: true, show: (one) => one.type },
  { name: "Tries", width: "3rem", minor: true, number: true, show: (one) => one.tries },
  { name: "Came", width: "6rem", show: (one) => <Time at={one.received_at} /> },
];

export default function DeadLetters() {
  const status = here.value.searchParams.get("status") ?? undefined;
  const rows = useRows("list_dead_letters", { query: { status } as never }, (one) => one.id);
  useChanges("stream:DEAD OR type:letter.*", rows.refresh);
  return (
    <>
      <Head title="Dead letters" />
      <div class="filters"><label>Status <select value={status ?? ""} onChange={(event) => search({ status: event.currentTarget.value })}><option value="">any</option>{["open", "replayed", "discarded"].map((one) => <option key={one}>{one}</option>)}</select></label></div>
      <Table of={rows} columns={COLUMNS} keyOf={(one) => one.id} href={(one) => to(`/dead-letters/${one.id}`)} label="Dead letters" empty={status ? "None is like this." : "There is none: every message was dealt with."} />
    </>
  );
}
