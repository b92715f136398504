// Logs: everything that happened, searched, counted, followed and taken away.
import { useEffect, useState } from "preact/hooks";

import { useAsked } from "../api/asked";
import { type Schemas, address, call, may } from "../api/client";
import { useStream } from "../api/live";
import { here, search } from "../app/router";
import { Found } from "../ui/found";
import { Brushed } from "../ui/histogram";
import { Act, Dialog, Empty, Head, Loading, Refusal } from "../ui/parts";
import { Query } from "../ui/query";
import { useRows } from "../ui/table";

const RANGES: [string, string][] = [["now-15m", "15 minutes"], ["now-1h", "1 hour"], ["now-24h", "24 hours"], ["now-7d", "7 days"], ["now-30d", "30 days"]];
const FACETS = "level,workflow,service,type";
// Rows of a tail that are kept in the page.
const MOST = 2000;

export default function Logs() {
  const params = here.value.searchParams;
  const [q, from, to] = [params.get("q") ?? "", params.get("from") ?? "now-24h", params.get("to") ?? undefined];
  const saved = params.get("saved") ?? undefined;
  const follows = params.has("follow");
  const query = { q, from, to, saved };
  const rows = useRows("search_logs", { query }, (one) => `${one.stream}/${one.seq}/${one.line ?? ""}`);
  const bars = useAsked("count_logs_by_time", { query: { ...query, bars: 80 } });
  const facets = useAsked("count_logs_by_value", { query: { ...query, fields: FACETS } });
  const searches = useAsked("list_searches", may("list_searches") ? { query: { limit: 1000 } } : null);
  const [tail, setTail] = useState<Schemas["LogItem"][]>([]);
  const [keeps, setKeeps] = useState(false);
  useEffect(() => setTail([]), [q, saved, follows]);
  useStream(follows ? address("tail_logs", { query: { q, saved } }) : null, ["row", "place", "dropped", "error"], (kind, data) => {
    if (kind === "row") setTail((was) => [data as Schemas["LogItem"], ...was].slice(0, MOST));
  });
  const also = (field: string, value: string) => search({ q: `${q} ${field}:${/^[\w.-]+$/.test(value) ? value : JSON.stringify(value)}`.trim() });
  return (
    <>
      <Head title="Logs">
        <select aria-label="Time" value={RANGES.some(([value]) => value === from) && !to ? from : ""} onChange={(event) => search({ from: event.currentTarget.value, to: undefined })}>
          {(to || !RANGES.some(([value]) => value === from)) && <option value="">as drawn</option>}
          {RANGES.map(([value, says]) => <option key={value} value={value}>{says}</option>)}
        </select>
        <select aria-label="Saved search" value={saved ?? ""} onChange={(event) => search({ saved: event.currentTarget.value })}>
          <option value="">no saved search</option>
          {(searches.data?.items ?? []).map((one) => <option key={one.name} value={one.name}>{one.name}</option>)}
        </select>
        <button type="button" aria-pressed={follows} class={follows ? "main" : undefined} onClick={() => search({ follow: follows ? undefined : "1" })}>{follows ? "Following" : "Follow"}</button>
        {may("put_search") && q && <button type="button" onClick={() => setKeeps(true)}>Save</button>}
        <a class="button" href={address("export_logs", { query: { ...query, format: "ndjson" } })} download="logs.ndjson">Export</a>
      </Head>
      <Query q={q} from={from} to={to} label="Query" />
      {bars.data && <Brushed of={bars.data} choose={(a, b) => search({ from: a, to: b })} />}
      {!bars.data && !bars.problem && <div class="histogram waits" aria-hidden="true" />}
      <div class="beside">
        <aside aria-label="Facets">
          {(facets.data?.items ?? []).map((facet) => (
            <section key={facet.field}>
              <h2>{facet.field}</h2>
              <ul>{facet.values.slice(0, 8).map((one) => <li key={one.value}><button type="button" class="bare" onClick={() => also(facet.field, one.value)}><span>{one.value || "none"}</span><small>{one.count.toLocaleString("en")}</small></button></li>)}</ul>
            </section>
          ))}
        </aside>
        <div>
          {rows.problem && <Refusal problem={rows.problem} />}
          {follows && <Found of={tail} />}
          {follows && tail.length === 0 && <Empty>Nothing new has come that fits.</Empty>}
          {!follows && (rows.loading && rows.rows.length === 0 ? <Loading /> : rows.rows.length === 0 ? !rows.problem && <Empty>Nothing in this time fits.</Empty> : <Found of={rows.rows} />)}
          {!follows && rows.more && <div class="actions"><button type="button" onClick={rows.next}>Older ones</button></div>}
        </div>
      </div>
      {keeps && <Keep q={q} close={() => setKeeps(false)} done={searches.again} />}
    </>
  );
}

function Keep({ q, close, done }: { q: string; close: () => void; done: () => Promise<void> }) {
  const [name, setName] = useState("");
  return (
    <Dialog title="Save this search" close={close}>
      <label>Name <input value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
      <div class="actions"><Act kind="main" disabled={!name} does={async () => { await call("put_search", { path: { name }, body: { q } as never, headers: { "If-None-Match": "*" } }); await done(); close(); }}>Save</Act></div>
    </Dialog>
  );
}
