// What single kinds of resources have besides their fields.
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

import { useAsked } from "../api/asked";
import { call, may } from "../api/client";
import type { Schema } from "../api/description";
import { to } from "../app/router";
import { inFull } from "../ui/formats";
import { Act, Copy, Empty, Refusal, Section, Status, Taken, Time } from "../ui/parts";
import { Fields } from "../ui/form";
import { Json } from "../ui/json";
import { Quotas } from "./operations";

type Entity = Record<string, unknown>;
interface ExtraProps {
  entity: Entity;
  /** The resource as the form has it, with what is not saved. */
  draft: Entity;
  name: string;
  again: () => Promise<void>;
}

/** The schema of a resource's body, where another choice of it says more: a source has the settings of its adapter. */
export function useSchemaOf(kind: string, body: Schema | null, value: Entity): Schema | null {
  const adapters = useAsked("list_adapters", kind === "sources" ? {} : null);
  if (kind !== "sources" || !body) return body;
  if (!adapters.data) return adapters.problem ? body : null;
  const items = adapters.data.items;
  const chosen = items.find((one) => one.name === value.adapter);
  const settings = chosen ? (chosen.settings_schema as Schema) : { type: "object", properties: {} };
  const secrets = new Set(chosen?.secrets ?? []);
  const properties = Object.fromEntries(
    Object.entries({ ...settings.properties, ...Object.fromEntries([...secrets].filter((one) => !settings.properties?.[one]).map((one) => [one, { type: "string" }])) })
      .map(([name, one]) => [name, secrets.has(name) ? { ...(one as Schema), type: "string", writeOnly: true } : one]),
  );
  return {
    ...body,
    properties: {
      adapter: { ...body.properties?.adapter, enum: items.map((one) => one.name), description: chosen?.description },
      settings: { ...settings, type: "object", properties: properties as Record<string, Schema>, description: undefined },
      ...Object.fromEntries(Object.entries(body.properties ?? {}).filter(([name]) => name !== "adapter" && name !== "settings")),
    },
  };
}

function Source({ entity, name, again }: ExtraProps) {
  const recent = useAsked("list_deliveries", { query: { source: name, limit: 10 } as never });
  const url = typeof entity.url === "string" ? entity.url : null;
  const [test, setTest] = useState<unknown>(null);
  return (
    <>
      {url && (
        <Section title="Address">
          <p>The sender is given this address; each request to it is a delivery.</p>
          <div class="actions"><code class="address">{url}</code><Copy text={url} /></div>
          <div class="actions">
            {may("test_source") && <Act does={async () => { setTest(await call("test_source", { path: { name } })); await Promise.all([again(), recent.again()]); }}>Send a test</Act>}
          </div>
          {test !== null && <Json of={test} />}
        </Section>
      )}
      <Section title="Last requests" aside={<a href={to("/deliveries", { source: name })}>All of them</a>}>
        {recent.data?.items.length === 0 && <Empty>None has come.</Empty>}
        <ul class="lines">{(recent.data?.items ?? []).map((one) => <li key={one.id}><a href={to(`/deliveries/${one.id}`)}>{one.type ?? one.id}</a><Status of={one.status} /><span class="minor">{one.reason}</span><Time at={one.received_at} /></li>)}</ul>
      </Section>
    </>
  );
}

function Schedule({ entity, name, again }: ExtraProps) {
  const next = useAsked("next_firings", { path: { name }, query: { n: 8 } });
  return (
    <Section title="Next times">
      {!entity.enabled && <p class="lead">It is off: these are the times that it would have.</p>}
      <ol class="times">{(next.data?.items ?? []).map((one) => <li key={one.at}><time dateTime={one.at} title={inFull(one.at)}>{one.local}</time> <Time at={one.at} /></li>)}</ol>
      <div class="actions">
        {may("patch_schedule") && <Act does={async () => { await call("patch_schedule", { path: { name }, body: { enabled: !entity.enabled } as never }); await again(); }}>{entity.enabled ? "Pause" : "Switch on"}</Act>}
        {may("run_schedule") && <Act does={async () => { await call("run_schedule", { path: { name } }); await again(); }}>Fire now</Act>}
      </div>
    </Section>
  );
}

function Connection({ entity, name, again }: ExtraProps) {
  const [tested, setTested] = useState<{ outcome: string; detail: string } | null>(null);
  const [device, setDevice] = useState<{ url: string; code: string } | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const isAsked = ["authorization_code", "device_code"].includes(String(entity.grant));
  const authorize = async () => {
    setProblem(null);
    // Opened by the press itself: a window that is opened later is one that browsers keep from opening.
    const opened = window.open("about:blank", "authorize", "popup,width=620,height=760");
    const begun = await call("authorize_connection", { path: { name } }).catch((error) => {
      opened?.close();
      throw error;
    });
    if (begun.user_code) setDevice({ url: begun.url, code: begun.user_code });
    if (opened) opened.location.replace(begun.url_with_code ?? begun.url);
    else location.assign(begun.url);
    while (Date.now() < Date.parse(begun.expires_at)) {
      await new Promise((done) => setTimeout(done, 1000));
      const now = await call("get_authorization", { path: { name, id: begun.id } });
      if (now.status === "open") continue;
      setDevice(null);
      if (now.status === "failed") setProblem(now.reason ?? "It was refused.");
      return again();
    }
    setProblem("Nobody has allowed it in time.");
  };
  return (
    <Section title="State">
      <div class="actions"><Status of={String(entity.status)} /><span>{String(entity.reason ?? "")}</span></div>
      {entity.advice ? <p>{String(entity.advice)}</p> : null}
      {device && <p>Enter <strong class="code">{device.code}</strong> at <a href={device.url} target="_blank" rel="noreferrer">{device.url}</a>.</p>}
      {problem && <p class="wrong" role="alert">{problem}</p>}
      <div class="actions">
        {isAsked && may("authorize_connection") && <Act kind="main" does={authorize}>Authorize</Act>}
        {may("test_connection") && <Act does={async () => setTested(await call("test_connection", { path: { name } }))}>Test</Act>}
        {may("refresh_connection") && <Act does={async () => { await call("refresh_connection", { path: { name } }); await again(); }}>Refresh the token</Act>}
      </div>
      {tested && <p role="status"><Status of={tested.outcome} /> {tested.detail}</p>}
    </Section>
  );
}

function Subscription({ draft, name }: ExtraProps) {
  const wanted = Object.fromEntries(["source", "event", "workflow", "filter", "input", "key"].filter((one) => draft[one]).map((one) => [one, draft[one]]));
  const body = wanted.source && wanted.event && wanted.workflow ? wanted : null;
  const settled = useSettled(body, 400);
  const seen = useAsked("preview_subscription", settled && may("preview_subscription") ? { path: { name: name || "new" }, body: settled as never } : null);
  return (
    <Section title="What it would take" aside={seen.data && <span>{seen.data.routed} of the {seen.data.events.length} newest</span>}>
      {!body && <Empty>Choose a source, an event and a workflow.</Empty>}
      <Refusal problem={seen.problem} />
      {seen.data?.warnings.map((one) => <p key={one.message} class="wrong">{one.path && <code>{one.path}</code>} {one.message}</p>)}
      {seen.data?.events.length === 0 && <Empty>No event of this source has come yet.</Empty>}
      <ul class="lines">
        {(seen.data?.events ?? []).slice(0, 20).map((one, n) => <li key={n}><Json of={one} open={0} /></li>)}
      </ul>
    </Section>
  );
}

function Key({ name, again }: ExtraProps) {
  const [made, setMade] = useState<string | null>(null);
  if (!may("rotate_key")) return null;
  return (
    <Section title="Rotation">
      <p>The key gets another value; the one before counts for a day more.</p>
      <div class="actions"><Act confirm={`The key ${name} gets another value, and the one before counts for a day more.`} does={async () => { setMade((await call("rotate_key", { path: { name }, body: { overlap: 86400 } as never })).key ?? ""); await again(); }}>Rotate</Act></div>
      {made && <><p>This is shown once, and nowhere again.</p><Taken text={made} /></>}
    </Section>
  );
}

function Organization({ name }: ExtraProps) {
  const quotas = useAsked("get_quotas", { path: { org: name } });
  return quotas.data ? <Section title="Use"><Quotas of={quotas.data as never} /></Section> : null;
}

function User({ name }: ExtraProps) {
  const [url, setUrl] = useState<string | null>(null);
  if (!may("invite_user")) return null;
  return (
    <Section title="Signing in anew">
      <p>For somebody who has lost what it signs in with: a link by which another password or passkey is set, once.</p>
      <div class="actions"><Act does={async () => setUrl((await call("invite_user", { path: { name }, body: {} as never })).url ?? "")}>Make a link</Act></div>
      {url && <Taken text={url} />}
    </Section>
  );
}

function Form({ entity, draft, name }: ExtraProps) {
  const [link, setLink] = useState<string | null>(null);
  const workflow = typeof draft.workflow === "string" && draft.workflow ? draft.workflow : null;
  const settled = useSettled(workflow, 400);
  const taken = useAsked("get_workflow", settled ? { path: { name: settled } } : null);
  return (
    <>
    {name && <Section title="Address">
      <div class="actions"><a class="address" href={String(entity.url)} target="_blank" rel="noreferrer">{String(entity.url)}</a><Copy text={String(entity.url)} /></div>
      {entity.access === "link" && may("make_form_link") && <div class="actions"><Act does={async () => setLink((await call("make_form_link", { path: { name }, body: {} as never })).url)}>Make a link</Act></div>}
      {link && <Taken text={link} />}
    </Section>}
    <Section title="As people see it">
      {!workflow && <Empty>Choose a workflow.</Empty>}
      <Refusal problem={taken.problem} />
      {taken.data && <Preview draft={draft} schema={taken.data.input_schema as Schema} />}
    </Section>
    </>
  );
}

/** The fields of a form that is being made, with nothing behind its button. */
function Preview({ draft, schema }: { draft: Entity; schema: Schema }) {
  const [value, setValue] = useState<Entity>({});
  const fields = (Array.isArray(draft.fields) ? draft.fields : []) as { name?: string; label?: string; help?: string }[];
  const chosen = fields.length > 0 ? fields : Object.keys(schema.properties ?? {}).map((one) => ({ name: one, label: undefined, help: undefined }));
  const given = new Set(Object.keys((draft.input as Entity | undefined) ?? {}));
  const shown = chosen.filter((one) => one.name && schema.properties?.[one.name] && !given.has(one.name));
  const unknown = chosen.filter((one) => one.name && !schema.properties?.[one.name]);
  return (
    <div class="form">
      {draft.title ? <h3>{String(draft.title)}</h3> : null}
      {draft.text ? <p>{String(draft.text)}</p> : null}
      <Fields
        schema={{ properties: Object.fromEntries(shown.map((one) => [one.name, { ...schema.properties?.[one.name ?? ""], ...(one.label && { title: one.label }), ...(one.help && { description: one.help }) }])), required: schema.required }}
        value={value}
        change={setValue}
        inOrder
      />
      {unknown.map((one) => <p key={one.name} class="wrong">The workflow takes no {one.name}.</p>)}
    </div>
  );
}

/** What stands above the fields of a kind. */
export const EXTRAS: Record<string, ComponentType<ExtraProps>> = {
  sources: Source,
  schedules: Schedule,
  connections: Connection,
  subscriptions: Subscription,
  keys: Key,
  orgs: Organization,
  users: User,
  forms: Form,
};

/** What stands there already while one is made. */
export const WHILE_NEW = new Set(["subscriptions", "forms"]);

function useSettled<T>(value: T, ms: number): T {
  const [settled, setSettled] = useState(value);
  const key = JSON.stringify(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [key]);
  return settled;
}
