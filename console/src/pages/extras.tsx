// What single kinds of resources have besides their fields.
import type { ComponentType } from "preact";
import { useState } from "preact/hooks";

import { useAsked } from "../api/asked";
import { call, may } from "../api/client";
import type { Schema } from "../api/description";
import { to } from "../app/router";
import { inFull } from "../ui/formats";
import { Act, Copy, Empty, Section, Status, Time } from "../ui/parts";
import { Json } from "../ui/json";

type Entity = Record<string, unknown>;
interface ExtraProps {
  entity: Entity;
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

/** What stands above the fields of a kind. */
export const EXTRAS: Record<string, ComponentType<ExtraProps>> = { sources: Source, schedules: Schedule };
