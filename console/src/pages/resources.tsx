// A list of resources of one kind.
import type { ComponentChildren } from "preact";

import { may } from "../api/client";
import { operationOf } from "../api/description";
import { KINDS } from "../app/kinds";
import { here, search, to } from "../app/router";
import { Marked } from "../ui/form";
import { Value } from "../ui/value";
import { Empty, Head, Time } from "../ui/parts";
import { type Column, Table, useRows } from "../ui/table";

// Fields whose names say little.
const NAMES: Record<string, string> = { q: "query", next_at: "next", above: "alerting", enabled: "state" };

// Values that are understood without the name of their field, where there is no room for more.
const saysItself = (field: string, one: unknown): boolean =>
  typeof one === "boolean" ? field === "enabled" && !one : typeof one === "number" ? field === "every" : one !== null && one !== undefined && one !== "" && !(Array.isArray(one) && one.length === 0);

export type Row = Record<string, unknown> & { name: string; updated_at?: string };

export default function Resources({ kind = "" }: { kind?: string }) {
  const list = operationOf("GET", `/api/v1/${kind}`);
  if (!list || !KINDS[kind]) return <Empty>There is no such kind of resource.</Empty>;
  return <Listed kind={kind} list={list} />;
}

interface ListedProps {
  kind: string;
  list: NonNullable<ReturnType<typeof operationOf>>;
  /** What stands between the head and the list, and a column more. */
  children?: ComponentChildren;
  column?: Column<Row>;
  /** Is given what asks for the list anew. */
  listens?: (refresh: () => void) => void;
}

export function Listed({ kind, list, children, column, listens }: ListedProps) {
  const known = KINDS[kind]!;
  const rows = useRows(list as "list_sources", {}, (one) => one.name) as unknown as ReturnType<typeof useRows<"list_sources">> & { rows: Row[] };
  listens?.(rows.refresh);
  const words = here.value.searchParams.get("q")?.toLowerCase() ?? "";
  const shown = { ...rows, rows: (rows.rows as unknown as Row[]).filter((one) => !words || JSON.stringify(one).toLowerCase().includes(words)) };
  const columns: Column<Row>[] = [
    { name: "Name", width: "minmax(8rem, 2fr)", show: (one) => <>{one.name}<small class="under">{known.shows.slice(1).filter((field) => saysItself(field, one[field])).map((field, n) => <>{n > 0 && ", "}{field === "enabled" ? "off" : <Value of={one[`${field}_name`] ?? one[field]} name={field} />}</>)}</small></> },
    ...known.shows.map((field, n): Column<Row> => ({ name: NAMES[field] ?? field.replace(/_at$/, "").replace(/_/g, " "), width: `minmax(5rem, ${n === 0 ? 2 : 1.5}fr)`, minor: n > 0, show: (one) => <Value of={one[`${field}_name`] ?? one[field]} name={field} /> })),
    { name: "Changed", width: "6.500rem", minor: true, show: (one) => <Time at={one.updated_at} /> },
    ...(column ? [column] : []),
  ];
  const put = operationOf("PUT", `/api/v1/${kind}/{name}`);
  const makes = put && may(put) && !known.recorded;
  return (
    <>
      <Head title={known.title}>
        {makes && <a class="button main" href={to(`/${kind}/+`)}>New {known.one}</a>}
      </Head>
      <p class="lead"><Marked of={known.says} /></p>
      {children}
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <label>Find <input type="search" placeholder="words" value={words} onInput={(event) => search({ q: event.currentTarget.value })} /></label>
      </form>
      <Table of={shown as never} columns={columns as never} keyOf={(one: Row) => one.name} href={(one: Row) => to(`/${kind}/${encodeURIComponent(one.name)}`)} label={known.title} empty={words ? "None is like this." : `There is no ${known.one} yet.${makes ? ` “New ${known.one}” makes one.` : ""}`} />
    </>
  );
}
