// Tests of a source: what would happen to a recorded request, step by step; or an event for a topic.
import { useState } from "preact/hooks";

import { written } from "../api/asked";
import { type Schemas, call } from "../api/client";
import { go, to } from "../app/router";
import { Act, Dialog, Status } from "./parts";

/** A request as a person writes it: a first line, headers, an empty line, the body. Raises for one that is none. */
function parsed(text: string): { method: string; query: string; headers: { name: string; value: string }[]; body_base64: string } {
  const at = text.indexOf("\n\n");
  const [first = "", ...lines] = (at < 0 ? text : text.slice(0, at)).split("\n");
  const [, method, target] = /^([A-Z]+)\s+(\S+)/.exec(first) ?? [];
  if (!method || !target) throw new Error("The first line is to be such as: POST / HTTP/1.1");
  const headers = lines.filter(Boolean).map((line) => {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`A header is a name, a colon and a value, and this is not: ${line.slice(0, 60)}`);
    return { name: line.slice(0, colon).trim(), value: line.slice(colon + 1).trim() };
  });
  const bytes = new TextEncoder().encode(at < 0 ? "" : text.slice(at + 2));
  return { method, query: target.split("?")[1] ?? "", headers, body_base64: btoa(Array.from(bytes, (one) => String.fromCharCode(one)).join("")) };
}

/** Takes a request and says what would happen to it at a source. Nothing is kept, and nothing runs. */
export function Trial({ source, example, close }: { source: string; example?: Schemas["AdapterExample"] | null; close: () => void }) {
  const [text, setText] = useState(() => [`POST / HTTP/1.1`, ...Object.entries(example?.headers ?? { "Content-Type": "application/json" }).map(([name, value]) => `${name}: ${value}`), "", example?.body ?? "{}"].join("\n"));
  const [told, setTold] = useState<Schemas["RequestTested"] | null>(null);
  return (
    <Dialog title={`Test a request to ${source}`} close={close} wide>
      <p>Paste a request as it was recorded, with its signature, to its last character: each check is told. Nothing is kept, and nothing runs.{example ? " This one is of the sender's documentation, and so without a signature." : ""}</p>
      <label>Request <textarea rows={12} class="code" spellcheck={false} value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
      <div class="actions"><Act kind="main" does={async () => setTold(await call("test_source", { path: { name: source }, body: parsed(text) as never }))}>Test</Act></div>
      {told && (
        <div role="status">
          <p>The sender would be answered <strong>{told.status}</strong>.</p>
          <ol class="steps">{told.steps.map((one, n) => <li key={n}><Status of={one.passes ? "ok" : "failed"} /> <strong>{one.step}</strong>: {one.detail}</li>)}</ol>
          {(told.events ?? []).map((one, n) => (
            <div key={n}>
              <p>Event <code>{one.type}</code>:</p>
              <ul class="lines">{one.outcomes.map((each, m) => <Outcome key={m} of={each} />)}</ul>
            </div>
          ))}
        </div>
      )}
    </Dialog>
  );
}

/** What a subscription would do with an event. */
export function Outcome({ of }: { of: Schemas["PreviewedOutcome"] }) {
  return <li><span>{of.subscription ? <a href={to(`/subscriptions/${of.subscription}`)}>{of.subscription}</a> : "nobody"}{of.workflow && <> → {of.workflow}</>}</span><Status of={of.outcome} /><span>{of.reason}</span></li>;
}

/** Lets a topic have an event. */
export function Emit({ source, close }: { source: string; close: () => void }) {
  const [type, setType] = useState("");
  const [data, setData] = useState("{}");
  return (
    <Dialog title={`An event for ${source}`} close={close}>
      <label>Type <input value={type} placeholder="order.paid" onInput={(event) => setType(event.currentTarget.value)} /></label>
      <label>Data, as JSON <textarea rows={8} class="code" spellcheck={false} value={data} onInput={(event) => setData(event.currentTarget.value)} /></label>
      <div class="actions"><Act kind="main" disabled={!type} does={async () => { const made = await call("emit_event", { path: { name: source }, body: { type, data: written(data) } as never }); close(); go(to(`/deliveries/${made.id}`)); }}>Send</Act></div>
    </Dialog>
  );
}
