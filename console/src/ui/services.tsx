// The services: what does not serve, and how each is.
import type { ComponentChildren } from "preact";

import type { Readiness, Service } from "../api/readiness";
import { bytes, duration } from "./formats";
import { Facts, Status, Time } from "./parts";

/** What does not serve, and whether webhooks are refused. */
export function Unserved({ of }: { of: Readiness | null }) {
  if (!of) return null;
  return (
    <>
      {Object.entries(of.unserved ?? {}).map(([name, one]) => (
        <div key={name} class="notice bad" role="alert"><strong>{name}</strong> is {one.how}{one.since && <>, since <Time at={one.since} /></>}. {one.effect}</div>
      ))}
      {of.accepting && !of.accepting.webhooks && <div class="notice bad" role="alert">Webhooks are not taken: {of.accepting.reason}</div>}
    </>
  );
}

const sum = (of: Record<string, number> | undefined): number => Object.values(of ?? {}).reduce((a, b) => a + b, 0);
const most = (of: Record<string, number> | undefined): number => Math.max(0, ...Object.values(of ?? {}));

/** One service: whether it is ready and what is not, what waits for it, and the pools that it has. */
export function ServiceLine({ name, of }: { name: string; of: Service }) {
  const troubles = Object.entries(of.parts ?? {}).filter(([, part]) => part.ready === false);
  const [waiting, behind] = [sum(of.consumers?.waiting), sum(of.projection_lag?.messages)];
  const { pool, connections, disk } = of;
  return (
    <li>
      <details>
        <summary><span>{name}</span> <Status of={of.ready ? "ready" : "unready"} /> <span class="minor">{[waiting ? `${waiting.toLocaleString("en")} wait` : "", behind ? `${behind.toLocaleString("en")} behind` : ""].filter(Boolean).join(", ") || "nothing waits"}</span></summary>
        <Facts of={[
          ["Messages that wait", `${waiting.toLocaleString("en")}${most(of.consumers?.age_s) >= 1 ? `, for ${duration(most(of.consumers?.age_s) * 1000)}` : ""}`],
          ["In work", sum(of.consumers?.in_work).toLocaleString("en")],
          ["Rows behind the streams", of.projection_lag && `${behind.toLocaleString("en")} messages${most(of.projection_lag.age_s) >= 1 ? `, for ${duration(most(of.projection_lag.age_s) * 1000)}` : ""}`],
          ["Where", behind || waiting ? [...Object.entries(of.consumers?.waiting ?? {}), ...Object.entries(of.projection_lag?.messages ?? {})].filter(([, count]) => count > 0).map(([what, count]) => `${what}: ${count.toLocaleString("en")}`).join(", ") : null],
          ["Connections to the database", connections && `${connections.in_use} of ${connections.size} in use`],
          ["Slots for runs", pool?.slots !== undefined && `${pool.taken ?? 0} of ${pool.slots} taken${pool.slots_max ? `, up to ${pool.slots_max}` : ""}`],
          ["Sandboxes", pool?.target !== undefined && `${(pool.blank ?? 0) + (pool.placed ?? 0)} ready of ${pool.target}, ${pool.serving ?? 0} in work`],
          ["Disk", disk?.free_bytes !== undefined && `${bytes(disk.free_bytes)} of ${bytes(disk.size_bytes)} free`],
        ]} />
      </details>
      {troubles.map(([part, how]) => <p key={part} class="wrong">{part}: {how.detail ?? "not ready"}{how.since && <>, since <Time at={how.since} /></>}</p>)}
    </li>
  );
}

const counted = (field: string, count: number): string => (field.endsWith("_bytes") ? bytes(count) : count.toLocaleString("en"));

/** How much of each quota is used. */
export function Quotas({ of }: { of: Record<string, { used: number; limit: number | null } | string> }): ComponentChildren {
  return (
    <ul class="lines">
      {Object.entries(of).map(([field, one]) => typeof one === "object" && (
        <li key={field}><span class="named">{field.replace(/_/g, " ")}</span><span class="minor">{counted(field, one.used)}{one.limit === null ? <small>, no limit</small> : ` of ${counted(field, one.limit)}`}</span>{one.limit ? <meter min={0} max={one.limit} value={one.used} aria-label={field} /> : null}</li>
      ))}
    </ul>
  );
}
