// One delivery: the request as it came, what was made of it, and what ran.
import { useAsked } from "../api/asked";
import { type Schemas, call, may } from "../api/client";
import { useChanges } from "../api/live";
import { go, to } from "../app/router";
import { bytes } from "../ui/formats";
import { Json } from "../ui/json";
import { Act, Copy, Empty, Facts, Head, Id, Loading, Refusal, Section, Status, Time } from "../ui/parts";

export default function DeliveryPage({ id = "" }: { id?: string }) {
  const asked = useAsked("get_delivery", { path: { id } });
  useChanges(`correlation_id:"${asked.data?.correlation_id ?? id}"`, () => void asked.again());
  const one = asked.data;
  if (asked.problem && !one) return <Refusal problem={asked.problem} again={asked.again} />;
  if (!one) return <Loading />;
  return (
    <>
      <Head of={<><a href={to("/deliveries")}>Deliveries</a> / <Id of={id} /> <Copy text={id} what="Copy the id" /></>} title={`${one.source_name ?? "Source"}${one.type ? `: ${one.type}` : ""}`}>
        <Status of={one.status} />
        {may("retry_delivery") && <Act kind="main" confirm="What this delivery wants is matched anew and runs again." does={async () => { await call("retry_delivery", { path: { id } }); await asked.again(); }}>Deliver again</Act>}
      </Head>
      {one.reason && <div class="notice">{one.reason}</div>}
      <Section title="Subscriptions">
        {one.subscriptions.length === 0 && <Empty>No subscription of this source took it.</Empty>}
        <ul class="lines">
          {one.subscriptions.map((each, n) => (
            <li key={n}>
              <span><a href={to(`/subscriptions/${each.name ?? each.subscription}`)}>{each.name ?? each.subscription}</a>{each.workflow && <> → {each.workflow}</>}</span>
              <Status of={each.status} />
              <span>{each.reason}</span>
              {each.run && <a href={to(`/runs/${each.run}`)}>its run</a>}
            </li>
          ))}
        </ul>
      </Section>
      <Section title="Runs">
        {one.runs.length === 0 && <Empty>Nothing ran.</Empty>}
        <ul class="lines">
          {one.runs.map((run) => <li key={run.id}><a href={to(`/runs/${run.id}`)}>{run.workflow}</a><Status of={run.status} /><span>{run.error ?? run.reason}</span><Time at={run.ended_at ?? run.requested_at} /></li>)}
        </ul>
      </Section>
      {one.request && <Request of={one.request} />}
      {one.data !== null && one.data !== undefined && <Section title="Data"><Json of={one.data} /></Section>}
      <Section title="Details">
        <Facts of={[["Came", <Time at={one.received_at} />], ["Source", <a href={to(`/sources/${one.source_name ?? one.source}`)}>{one.source_name ?? one.source}</a>], ["Events", one.events.map((each) => each.type).join(", ")], ["Retries", one.retries || null], ["Changed by", one.edited_by], ["Emitted by", one.emitted_by && <Id of={one.emitted_by} href={to(`/runs/${one.emitted_by}`)} />]]} />
        <p><button type="button" class="small" onClick={() => go(to("/logs", { q: `correlation_id:"${one.correlation_id}"` }))}>The whole chain in the logs</button></p>
      </Section>
    </>
  );
}

function Request({ of }: { of: Schemas["DeliveryRequest"] }) {
  let body: unknown;
  try {
    body = of.body ? JSON.parse(of.body) : undefined;
  } catch {
    body = undefined;
  }
  return (
    <Section title="Request" aside={<span>{of.method}, {bytes(of.body_size)}, from {of.remote ?? "unknown"}</span>}>
      <details open><summary>{of.headers.length} headers</summary>
        <table class="pairs"><tbody>{of.headers.map(([name, value], n) => <tr key={n}><th scope="row">{name}</th><td>{value}</td></tr>)}</tbody></table>
      </details>
      {of.query.length > 0 && <details open><summary>Query</summary><table class="pairs"><tbody>{of.query.map(([name, value], n) => <tr key={n}><th scope="row">{name}</th><td>{value}</td></tr>)}</tbody></table></details>}
      <h3>Body</h3>
      {body !== undefined ? <Json of={body} /> : of.body ? <pre class="body">{of.body}</pre> : of.body_base64 ? <p>It is no text. <Copy text={of.body_base64} what="Copy as base64" /></p> : <Empty>None.</Empty>}
    </Section>
  );
}
