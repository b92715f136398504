// Workflows: the functions that can be run.
import { useAsked } from "../api/asked";
import { type Schemas, may } from "../api/client";
import { useChanges } from "../api/live";
import { here, search, to } from "../app/router";
import { Head, Section, Status, Time } from "../ui/parts";
import { type Column, Table, useRows } from "../ui/table";

type Entry = Schemas["WorkflowEntry"];
const COLUMNS: Column<Entry>[] = [
  { name: "Workflow", width: "minmax(8rem, 1.500fr)", show: (one) => <>{one.name}<small class="under">{one.doc.split("\n")[0] || one.path}</small></> },
  { name: "What it does", width: "minmax(8rem, 3fr)", minor: true, show: (one) => one.doc.split("\n")[0] },
  { name: "File", width: "minmax(6rem, 1.500fr)", minor: true, show: (one) => <code>{one.path}</code> },
  { name: "Changed", width: "6rem", show: (one) => <Time at={one.updated_at} /> },
];

export default function Workflows() {
  const words = here.value.searchParams.get("q")?.toLowerCase() ?? "";
  const rows = useRows("list_workflows", {}, (one) => one.name);
  const problems = useAsked("list_problems", may("list_problems") ? {} : null);
  useChanges("type:workflow.* OR type:file.*", () => { rows.refresh(); void problems.again(); });
  const shown = { ...rows, rows: rows.rows.filter((one) => !words || `${one.name} ${one.doc} ${one.path}`.toLowerCase().includes(words)) };
  return (
    <>
      <Head title="Workflows" />
      <form class="filters" onSubmit={(event) => event.preventDefault()}><label>Find <input type="search" placeholder="words" value={words} onInput={(event) => search({ q: event.currentTarget.value })} /></label></form>
      {(problems.data?.items ?? []).length > 0 && (
        <Section title="Problems of the workspace">
          <ul class="lines">
            {problems.data?.items.map((one) => <li key={`${one.path} ${one.line} ${one.message}`}><span><a href={to(`/files/${one.path}`, { line: String(one.line) })}>{one.path}, line {one.line}</a></span><Status of={one.severity ?? "error"} /><span class="why" title={one.message}>{one.message}</span></li>)}
          </ul>
        </Section>
      )}
      <Table of={shown} columns={COLUMNS} keyOf={(one) => one.name} href={(one) => to(`/workflows/${one.name}`)} label="Workflows" empty={words ? "None is like this." : "There is none yet: `millrace dev init` makes a workspace with one, and `millrace deploy` brings it here."} />
    </>
  );
}
