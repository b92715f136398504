// The audit trail: who did what, and what was refused.
import { here } from "../app/router";
import { Found } from "../ui/found";
import { Empty, Head, Loading, Refusal } from "../ui/parts";
import { Query } from "../ui/query";
import { useRows } from "../ui/table";

export default function Audit() {
  const params = here.value.searchParams;
  const [q, from] = [params.get("q") ?? "", params.get("from") ?? "now-30d"];
  const rows = useRows("search_audit", { query: { q, from } }, (one) => `${one.stream}/${one.seq}`);
  return (
    <>
      <Head title="Audit" />
      <p class="lead">Every change and every refusal, with who it was. A look at this page is in it as well.</p>
      <Query q={q} from={from} label="Query of the audit trail" />
      {rows.problem ? <Refusal problem={rows.problem} /> : rows.loading && rows.rows.length === 0 ? <Loading /> : rows.rows.length === 0 ? <Empty>Nothing in the last 30 days fits.</Empty> : <Found of={rows.rows} />}
      {rows.more && <div class="actions"><button type="button" onClick={rows.next}>Older ones</button></div>}
    </>
  );
}
