// One delivery: the request as it came, what was made of it, and what ran.
import { useState } from "preact/hooks";

import { useAsked, written } from "../api/asked";
import { type Schemas, call, may } from "../api/client";
import { useChanges } from "../api/live";
import { go, to } from "../app/router";
import { bytes } from "../ui/formats";
import { Json } from "../ui/json";
import { Act, Copy, Dialog, Empty, Facts, Head, Id, Loading, Refusal, Section, Status, Text, Time } from "../ui/parts";

export default function DeliveryPage({ id = "" }: { id?: string }) {
  const asked = useAsked("get_delivery", { path: { id } });
  useChanges(`correlation_id:"${asked.data?.correlation_id ?? id}"`, () => void asked.again());
  const [edits, setEdits] = useState(false);
  const one = asked.data;
  if (asked.problem && !one) return <Refusal problem={asked.problem} again={asked.again} />;
  if (!one) return <Loading />;
  const resumed = new Set(one.runs.map((run) => run.resumes));
  return (
    <>
      <Head of={<><a href={to("/deliveries")}>Deliveries</a> / <Id of={id} /> <Copy text={id} what="Copy the id" /></>} title={`${one.source_name ?? "Source"}${one.type ? `: ${one.type}` : ""}`}>
        <Status of={one.status} />
        {may("retry_delivery") && one.events.length > 0 && <button type="button" onClick={() => setEdits(true)}>Deliver other data</button>}
        {may("retry_delivery") && <Act kind="main" confirm="What this delivery wants is matched anew and runs again." does={async () => { await call("retry_delivery", { path: { id } }); await asked.again(); }}>Deliver again</Act>}
      </Head>
      {edits && <Edited of={one} close={() => { setEdits(false); void asked.again(); }} />}
      {one.reason && <div class={`notice${one.status === "dead" || one.status === "unroutable" ? " bad" : ""}`}>{one.reason}</div>}
      <Section title="Subscriptions">
        {one.subscriptions.length === 0 && <Empty>No subscription of this source took it.</Empty>}
        <ul class="lines">
          {one.subscriptions.map((each, n) => (
            <li key={n}>
              <span>{each.subscription ? <a href={to(`/subscriptions/${each.name ?? each.subscription}`)}>{each.name ?? each.subscription}</a> : "no subscription"}{each.workflow && <> → {each.workflow}</>}</span>
              <Status of={each.status} />
              <span class="why">{each.reason}</span>
              {each.retry_at && <span>tried again <Time at={each.retry_at} /></span>}
              {each.run && <a href={to(`/runs/${each.run}`)}>its run</a>}
            </li>
          ))}
          <Others of={one} />
        </ul>
        {one.left_out > 0 && <p class="minor">{one.left_out.toLocaleString("en")} more are in the logs.</p>}
      </Section>
      <Section title="Runs">
        {one.runs.length + one.woken.length === 0 && <Empty>Nothing ran.</Empty>}
        <ul class="lines">
          {one.runs.map((run) => <li key={run.id}><span><a href={to(`/runs/${run.id}`)}>{run.workflow}</a>{run.resumes ? <small> goes on from <Id of={run.resumes} href={to(`/runs/${run.resumes}`)} /></small> : resumed.has(run.id) && <small> was resumed</small>}</span><Status of={run.status} /><span class="why">{run.error ?? run.reason}</span><Time at={run.ended_at ?? run.requested_at} /></li>)}
          {one.woken.map((each) => <li key={`${each.run} ${each.event}`}><span><Id of={each.run} href={to(`/runs/${each.run}`)} /></span><Status of="woken" /><span class="why">it waited for {each.wait}</span><Time at={each.at} /></li>)}
        </ul>
      </Section>
      {one.request && (
        <Section title="Verification">
          {(one.request.checked ?? []).length === 0 && <Empty>It was verified before anything is known of that.</Empty>}
          <ol class="steps checks">
            {(one.request.checked ?? []).map((each) => <li key={each}><Status of="ok" /> <span>{each}</span></li>)}
            <li><Status of={one.request.sender_delivery ? "ok" : "no id"} /> <span>{one.request.sender_delivery ? <>the sender calls it <code>{one.request.sender_delivery}</code>: sent again, it is the same delivery</> : "the sender names no id: sent again, it is another delivery"}</span></li>
          </ol>
        </Section>
      )}
      {one.request && <Request of={one.request} />}
      {one.data !== null && one.data !== undefined && <Section title="Data"><Json of={one.data} /></Section>}
      <Section title="Details">
        <Facts of={[["Came", <Time at={one.received_at} />], ["Source", <a href={to(`/sources/${one.source_name ?? one.source}`)}>{one.source_name ?? one.source}</a>], ["Events", one.events.map((each) => each.type).join(", ")], ["Retries", one.retries || null], ["Changed by", one.edited_by], ["Emitted by", one.emitted_by && <Id of={one.emitted_by} href={to(`/runs/${one.emitted_by}`)} />]]} />
        <p><button type="button" class="small" onClick={() => go(to("/logs", { q: `correlation_id:"${one.correlation_id}"` }))}>The whole chain in the logs</button></p>
      </Section>
    </>
  );
}

/** Routes one event of a delivery again with other data: what was received stays as it is, and that it was changed is on record. */
function Edited({ of, close }: { of: Schemas["DeliveryView"]; close: () => void }) {
  const [number, setNumber] = useState(of.events[0]?.number ?? 0);
  const [data, setData] = useState(() => (of.data !== null && of.data !== undefined ? JSON.stringify(of.data, null, 2) : (of.request?.body ?? "{}")));
  return (
    <Dialog title="Deliver again with other data" close={close} wide>
      <p>Every subscription of the source is asked anew. What was received stays as it is; that this was changed, and by whom, is on record.</p>
      {of.events.length > 1 && <label>Event <select value={String(number)} onChange={(event) => setNumber(Number(event.currentTarget.value))}>{of.events.map((one) => <option key={one.number} value={String(one.number)}>{one.number}: {one.type}</option>)}</select></label>}
      <label>Data of the event, as JSON <textarea rows={14} class="code" spellcheck={false} value={data} onInput={(event) => setData(event.currentTarget.value)} /></label>
      <div class="actions"><Act kind="main" does={async () => { await call("retry_delivery", { path: { id: of.id }, body: { edit: { number, data: written(data) } } as never }); close(); }}>Deliver</Act></div>
    </Dialog>
  );
}

/** The subscriptions of the source that are not told of, as they are now, each with what kept it from the delivery. */
function Others({ of }: { of: Schemas["DeliveryView"] }) {
  const all = useAsked("list_subscriptions", may("list_subscriptions") && of.events.length > 0 ? { query: { limit: 1000 } } : null);
  const told = new Set(of.subscriptions.flatMap((one) => [one.subscription, one.name]));
  const types = [...new Set(of.events.map((one) => one.type))].join(", ");
  const others = (all.data?.items ?? []).filter((one) => one.source === of.source && !told.has(one.id) && !told.has(one.name));
  const why = (one: (typeof others)[number]) =>
    !one.enabled ? "it is switched off" : one.created_at > of.received_at ? "it was made after this came" : <>it takes <code>{one.event}</code>, and this is <code>{types}</code>{one.updated_at > of.received_at && ", if it was so then: it was changed since"}</>;
  return <>{others.map((one) => <li key={one.id}><span><a href={to(`/subscriptions/${one.name}`)}>{one.name}</a> → {one.workflow}</span><Status of="not matched" /><span class="why">{why(one)}</span></li>)}</>;
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
      {body !== undefined ? <Json of={body} /> : of.body ? <Text of={of.body} /> : of.body_base64 ? <p>It is no text. <Copy text={of.body_base64} what="Copy as base64" /></p> : <Empty>None.</Empty>}
    </Section>
  );
}
