// A list of resources of one kind.
import { may } from "../api/client";
import { operationOf } from "../api/description";
import { KINDS } from "../app/kinds";
import { here, search, to } from "../app/router";
import { Value } from "../ui/value";
import { Empty, Head, Time } from "../ui/parts";
import { type Column, Table, useRows } from "../ui/table";

type Row = Record<string, unknown> & { name: string; updated_at?: string };

export default function Resources({ kind = "" }: { kind?: string }) {
  const known = KINDS[kind];
  const list = operationOf("GET", `/api/v1/${kind}`);
  if (!list || !known) return <Empty>There is no such kind of resource.</Empty>;
  return <Listed kind={kind} list={list} />;
}

function Listed({ kind, list }: { kind: string; list: NonNullable<ReturnType<typeof operationOf>> }) {
  const known = KINDS[kind]!;
  const rows = useRows(list as "list_sources", {}, (one) => one.name) as unknown as ReturnType<typeof useRows<"list_sources">> & { rows: Row[] };
  const words = here.value.searchParams.get("q")?.toLowerCase() ?? "";
  const shown = { ...rows, rows: (rows.rows as unknown as Row[]).filter((one) => !words || JSON.stringify(one).toLowerCase().includes(words)) };
  const columns: Column<Row>[] = [
    { name: "Name", width: "minmax(8rem, 2fr)", show: (one) => one.name },
    ...known.shows.map((field, n): Column<Row> => ({ name: field.replace(/_/g, " "), width: "minmax(5rem, 1.500fr)", minor: n > 0, show: (one) => <Value of={one[field]} name={field} /> })),
    { name: "Changed", width: "6.500rem", show: (one) => <Time at={one.updated_at} /> },
  ];
  const put = operationOf("PUT", `/api/v1/${kind}/{name}`);
  return (
    <>
      <Head title={known.title}>
        {put && may(put) && <a class="button main" href={to(`/${kind}/+`)}>New {known.one}</a>}
      </Head>
      <p class="lead">{known.says}</p>
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <label>Find <input type="search" value={words} onInput={(event) => search({ q: event.currentTarget.value })} /></label>
      </form>
      <Table of={shown as never} columns={columns as never} keyOf={(one: Row) => one.name} href={(one: Row) => to(`/${kind}/${encodeURIComponent(one.name)}`)} label={known.title} empty={words ? "None is like this." : `There is no ${known.one} yet.`} />
    </>
  );
}
