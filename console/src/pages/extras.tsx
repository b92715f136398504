// What single kinds of resources have besides their fields.
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

import { asProblem, useAsked } from "../api/asked";
import { type Problem, type Schemas, call, may, org } from "../api/client";
import { type Schema, plain, resolved } from "../api/description";
import { hasCome, useChanges } from "../api/live";
import { to } from "../app/router";
import { inFull, wall } from "../ui/formats";
import { Act, Copy, Dialog, Empty, Refusal, Section, Status, Taken, Time } from "../ui/parts";
import { Fields } from "../ui/form";
import { Json } from "../ui/json";
import { Emit, Trial } from "../ui/trial";
import { Quotas } from "../ui/services";

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
  const id = String(entity.id);
  const recent = useAsked("list_deliveries", { query: { source: name, limit: 10 } as never });
  const refused = useAsked("search_logs", { query: { q: `(type:audit.refused data.category:webhook data.target:"${id}") OR (type:webhook.refused key:"${id}")`, from: "now-7d", limit: 10 } });
  const adapters = useAsked("list_adapters", may("test_source") ? {} : null);
  useChanges(`(stream:WEBHOOKS key:"${id}") OR (type:audit.refused data.target:"${id}")`, (types) => {
    if (hasCome(types, "WEBHOOKS")) void recent.again();
    if (hasCome(types, "audit.refused", "webhook.refused")) void refused.again();
  });
  const url = typeof entity.url === "string" ? entity.url : null;
  const [tests, setTests] = useState(false);
  const registration = entity.registration as { status: string; error?: string | null; expires_at?: string | null } | null;
  const close = () => { setTests(false); void again(); };
  return (
    <>
      <Section title={url ? "Address" : "Events"}>
        {url && (
          <>
            <p>The sender is given this address; each request to it is a delivery.</p>
            <div class="actions"><code class="address">{url}</code><Copy text={url} /></div>
          </>
        )}
        {registration && <p><Status of={registration.status} /> It is registered with its sender{registration.expires_at && <>, until <Time at={registration.expires_at} /></>}. {registration.error && <span class="wrong">{registration.error}</span>}</p>}
        <div class="actions">
          {url && may("test_source") && <button type="button" onClick={() => setTests(true)}>Test a request</button>}
          {entity.adapter === "topic" && may("emit_event") && <button type="button" onClick={() => setTests(true)}>Send an event</button>}
        </div>
        {tests && (url ? <Trial source={name} example={adapters.data?.items.find((one) => one.name === entity.adapter)?.example} close={close} /> : <Emit source={name} close={close} />)}
      </Section>
      <Section title="Last requests" aside={<a href={to("/deliveries", { source: name })}>All of them</a>}>
        <Refusal problem={recent.problem} again={recent.again} />
        {recent.data?.items.length === 0 && <Empty>None has come.</Empty>}
        <ul class="lines">{(recent.data?.items ?? []).map((one) => <li key={one.id}><a href={to(`/deliveries/${one.id}`)}>{one.type ?? one.id}</a><Status of={one.status} /><span class="why" title={one.reason ?? undefined}>{one.reason}</span><Time at={one.received_at} /></li>)}</ul>
      </Section>
      {(refused.data?.items.length ?? 0) > 0 && (
        <Section title="Refused requests" aside={<span>at most one a second is told, of a week</span>}>
          <ul class="lines">{refused.data?.items.map((one) => <Refused key={`${one.stream} ${one.seq}`} of={one} />)}</ul>
        </Section>
      )}
    </>
  );
}

const REASONS: Record<string, string> = { rate: "more came than the source's rate allows", room: "too many bodies were on their way", backlog: "too many webhooks wait" };

/** A request that was refused: it is no delivery, and nothing of it is kept but why. */
function Refused({ of }: { of: Schemas["LogItem"] }) {
  const data = of.data as { outcome?: string; reason?: string; remote?: string | null; count?: number; detail?: { reason?: string; count?: number } };
  const count = data.detail?.count ?? data.count ?? 1;
  return <li><span>{data.detail?.reason ?? REASONS[data.reason ?? ""] ?? data.reason}</span>{count > 1 && <span>{count} times</span>}<span class="minor">from {data.remote ?? "unknown"}</span><Time at={of.time} /></li>;
}

function Schedule({ entity, name, again }: ExtraProps) {
  const next = useAsked("next_firings", { path: { name }, query: { n: 8 } });
  return (
    <Section title="Next times" aside={<span>{String(entity.timezone ?? "UTC")}</span>}>
      {!entity.enabled && <p class="lead">It is off: these are the times that it would have.</p>}
      <ol class="times">{(next.data?.items ?? []).map((one) => <li key={one.at}><time dateTime={one.at} title={inFull(one.at)}>{wall(one.local)}</time> <Time at={one.at} /></li>)}</ol>
      <div class="actions">
        {may("patch_schedule") && <Act does={async () => { await call("patch_schedule", { path: { name }, body: { enabled: !entity.enabled } as never }); await again(); }}>{entity.enabled ? "Pause" : "Resume"}</Act>}
        {may("run_schedule") && <Act does={async () => { await call("run_schedule", { path: { name } }); await again(); }}>Fire now</Act>}
      </div>
    </Section>
  );
}

function Connection({ entity, name, again }: ExtraProps) {
  const [tested, setTested] = useState<{ outcome: string; detail: string } | null>(null);
  const [device, setDevice] = useState<{ url: string; code: string } | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const grant = String(entity.grant);
  const isAsked = ["authorization_code", "device_code"].includes(grant);
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
        {!["token", "api_key", "basic"].includes(grant) && may("refresh_connection") && <Act does={async () => { await call("refresh_connection", { path: { name } }); await again(); }}>Refresh the token</Act>}
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
        {(seen.data?.events ?? []).map((one) => (
          <li key={`${one.delivery} ${one.received_at} ${one.type}`}>
            <span><a href={to(`/deliveries/${one.delivery}`)}>{one.type}</a></span>
            <Status of={one.outcome?.outcome ?? "another type"} />
            <span class="why" title={one.outcome?.reason ?? undefined}>{one.outcome?.reason}</span>
            <Time at={one.received_at} />
            {one.outcome?.input && <details class="whole"><summary>Input</summary><Json of={one.outcome.input} open={1} /></details>}
          </li>
        ))}
      </ul>
    </Section>
  );
}

function Integration({ entity, name }: ExtraProps) {
  const asked = useAsked("list_mappings", may("list_mappings") ? { path: { name } } : null);
  const [edits, setEdits] = useState<string | null>(null);
  const items = asked.data?.items ?? [];
  const edited = items.find((one) => one.org === edits);
  return (
    <Section title="Mappings" aside={may("put_mapping") && !items.some((one) => one.org === org.value) && <button type="button" onClick={() => setEdits(org.value)}>Map {org.value}</button>}>
      <Refusal problem={asked.problem} again={asked.again} />
      {asked.data && items.length === 0 && <Empty>No organization has values for it.</Empty>}
      <ul class="lines">
        {items.map((one) => (
          <li key={one.id}>
            <span>{one.org}{one.entity_id && <> is <code>{one.entity_id}</code></>}</span>
            {one.connection && <a href={to(`/connections/${one.connection}`)}>{one.connection}</a>}
            {one.problems.length > 0 && <span class="wrong">{one.problems.map((each) => `${each.path} ${each.message}`).join("; ")}</span>}
            {may("put_mapping") && <button type="button" class="small" onClick={() => setEdits(one.org)}>Change</button>}
          </li>
        ))}
      </ul>
      {edits !== null && <Mapping name={name} of={edits} was={edited} schema={entity.config_schema as Schema} close={() => { setEdits(null); void asked.again(); }} />}
    </Section>
  );
}

/** The form of a mapping: its config by the schema of the integration. */
function Mapping({ name, of, was, schema, close }: { name: string; of: string; was?: Schemas["MappingView"]; schema: Schema; close: () => void }) {
  const [value, setValue] = useState<Entity>({ entity_id: was?.entity_id ?? undefined, connection: was?.connection ?? undefined, config: was?.config ?? {} });
  const [problem, setProblem] = useState<Problem | null>(null);
  const save = async () => {
    try {
      await call("put_mapping", { path: { name, org: of }, body: value as never });
      close();
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  return (
    <Dialog title={`${name} for ${of}`} close={close} wide>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void save(); }}>
        <Fields schema={{ properties: { entity_id: { type: "string", description: "Who the organization is in the external system." }, connection: { type: "string", "x-refers-to": "connection" }, config: { ...schema, type: "object" } } }} value={value} change={setValue} faults={problem?.faults ?? []} />
        {problem && <Refusal problem={problem} />}
        <div class="actions"><button class="main">Save</button></div>
      </form>
    </Dialog>
  );
}

function Key({ name, again }: ExtraProps) {
  const [made, setMade] = useState<string | null>(null);
  if (!may("rotate_key")) return null;
  return (
    <Section title="Rotation">
      <p>The key gets another value. The one before is valid for another day.</p>
      <div class="actions"><Act confirm={`The key ${name} gets another value. The one before is valid for another day.`} does={async () => { setMade((await call("rotate_key", { path: { name }, body: { overlap: 86400 } as never })).key ?? ""); await again(); }}>Rotate</Act></div>
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
      {taken.data && <Preview draft={draft} schema={resolved(taken.data.input_schema as Schema)} />}
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
  const shown = chosen.filter((one) => one.name && within(schema, one.name) && !given.has(one.name));
  const unknown = chosen.filter((one) => one.name && !within(schema, one.name));
  return (
    <div class="form">
      {draft.title ? <h3>{String(draft.title)}</h3> : null}
      {draft.text ? <p>{String(draft.text)}</p> : null}
      <Fields
        schema={{ properties: Object.fromEntries(shown.map((one) => [one.name, { ...within(schema, one.name ?? ""), ...(one.label && { title: one.label }), ...(one.help && { description: one.help }) }])), required: schema.required }}
        value={value}
        change={setValue}
        inOrder
      />
      {unknown.map((one) => <p key={one.name} class="wrong">The workflow takes no {one.name}.</p>)}
    </div>
  );
}

/** The schema of a parameter, or by `customer.name` of one within it. */
function within(schema: Schema, name: string): Schema | undefined {
  if (schema.properties?.[name]) return schema.properties[name];
  const [first = "", ...rest] = name.split(".");
  const outer = schema.properties?.[first];
  return outer && rest.length > 0 ? within(plain(outer).of, rest.join(".")) : undefined;
}

/** What stands above the fields of a kind. */
export const EXTRAS: Record<string, ComponentType<ExtraProps>> = {
  sources: Source,
  schedules: Schedule,
  connections: Connection,
  subscriptions: Subscription,
  integrations: Integration,
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
