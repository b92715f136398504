// The audit trail: who did what, and what was refused.
import { useState } from "preact/hooks";

import type { Schemas } from "../api/client";
import { here } from "../app/router";
import { inFull, moment, short } from "../ui/formats";
import { Whole } from "../ui/found";
import { Head, Status } from "../ui/parts";
import { Query } from "../ui/query";
import { type Column, Table, useRows } from "../ui/table";

type Item = Schemas["LogItem"];
interface Audited { category: string; verb: string; actor: string; target: string; outcome: string; remote: string | null }

// What is not of this shape, a message of a later version, is shown by its line.
const of = (one: Item): Partial<Audited> => (one.data ?? {}) as Partial<Audited>;
const did = (one: Item): string => [of(one).category, of(one).verb?.replace(/_/g, " ")].filter(Boolean).join(" ") || one.message;
const COLUMNS: Column<Item>[] = [
  { name: "Who", width: "minmax(7rem, 1.500fr)", show: (one) => <>{of(one).actor || <span class="none">nobody</span>}<small class="under">{[did(one), short(of(one).target ?? "")].filter(Boolean).join(" ")}</small></> },
  { name: "Did", width: "minmax(7rem, 1.400fr)", minor: true, show: did },
  { name: "To", width: "minmax(8rem, 2fr)", minor: true, show: (one) => <span title={of(one).target}>{short(of(one).target ?? "")}</span> },
  { name: "Outcome", width: "minmax(4.5rem, 1fr)", show: (one) => of(one).outcome && <Status of={of(one).outcome ?? ""} /> },
  { name: "From", width: "minmax(6rem, 1fr)", minor: true, show: (one) => of(one).remote },
  { name: "When", width: "8rem", show: (one) => <time dateTime={one.time} title={inFull(one.time)}>{moment(one.time)}</time> },
];

export default function Audit() {
  const params = here.value.searchParams;
  const [q, from] = [params.get("q") ?? "", params.get("from") ?? "now-30d"];
  const rows = useRows("search_audit", { query: { q, from } }, (one) => `${one.stream}/${one.seq}`);
  const [opened, setOpened] = useState<Item | null>(null);
  return (
    <>
      <Head title="Audit" />
      <p class="lead">Every change and every refusal, and who made it. Reading this page is recorded too.</p>
      <Query q={q} from={from} label="Query of the audit trail" example={'-data.outcome:ok data.actor:"user:ada"'} />
      <Table of={rows} columns={COLUMNS} keyOf={(one) => `${one.stream}/${one.seq}`} opens={setOpened} label="Audit" empty="Nothing in the last 30 days fits." />
      {opened && <Whole of={opened} close={() => setOpened(null)} />}
    </>
  );
}
