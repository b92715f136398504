// Operations: whether all is served, what is behind, what is installed.
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";

import { useAsked } from "../api/asked";
import { call, may, org } from "../api/client";
import { to } from "../app/router";
import { bytes, duration } from "../ui/formats";
import { Json } from "../ui/json";
import { Act, Empty, Facts, Head, Loading, Refusal, Section, Status, Time } from "../ui/parts";

interface Unserved { how: string; since?: string; effect?: string; last_exit?: string | null }
interface Part { ready?: boolean; detail?: string | null; since?: string | null }
interface Service { status?: string; ready?: boolean; parts?: Record<string, Part> }
interface Readiness {
  status: string;
  version?: string;
  accepting?: { webhooks: boolean; reason?: string | null };
  unserved?: Record<string, Unserved>;
  degraded?: string[];
  backlog?: { messages?: number; age_s?: number | null; work?: Record<string, number>; refused?: number; problem?: string | null };
  services?: Record<string, Service>;
  failing?: string[];
}

export default function Operations() {
  const ready = useAsked("ready", {});
  const environments = useAsked("list_environments", may("list_environments") ? {} : null);
  const quotas = useAsked("get_quotas", may("get_quotas") ? { path: { org: org.value } } : null);
  const replays = useAsked("list_replays", may("list_replays") ? { query: { limit: 10 } } : null);
  useEffect(() => {
    const timer = setInterval(() => void ready.again(), 5000);
    return () => clearInterval(timer);
  });
  // What does not serve is said with 503: then the document is that of the refusal.
  const now = ready.data as unknown as Readiness | undefined;
  return (
    <>
      <Head title="Operations">{now && <Status of={now.status} />}</Head>
      {ready.problem && <Refusal problem={ready.problem} again={ready.again} />}
      {!now && !ready.problem && <Loading />}
      {now && (
        <>
          {Object.entries(now.unserved ?? {}).map(([name, one]) => (
            <div key={name} class="notice bad" role="alert"><strong>{name}</strong> is {one.how}{one.since && <>, since <Time at={one.since} /></>}. {one.effect}</div>
          ))}
          {now.accepting && !now.accepting.webhooks && <div class="notice bad" role="alert">Webhooks are not taken: {now.accepting.reason}</div>}
          <div class="columns">
            <Section title="Services">
              <ul class="lines">{Object.entries(now.services ?? {}).map(([name, one]) => <li key={name}><span>{name}</span><Status of={one.status ?? (one.ready ? "ready" : "down")} /><span class="minor">{Object.entries(one.parts ?? {}).filter(([, part]) => part.ready === false).map(([part, how]) => `${part}: ${how.detail ?? "not ready"}`).join("; ")}</span></li>)}</ul>
            </Section>
            <Section title="Backlog">
              <Facts of={[["Messages that wait", (now.backlog?.messages ?? 0).toLocaleString("en")], ["The oldest waits", now.backlog?.age_s ? duration(now.backlog.age_s * 1000) : null], ["Refused since the start", now.backlog?.refused?.toLocaleString("en")], ["Problem", now.backlog?.problem]]} />
              {Object.keys(now.backlog?.work ?? {}).length > 0 && <Json of={now.backlog?.work} open={1} />}
            </Section>
          </div>
        </>
      )}
      {quotas.data && <Section title={`Quotas of ${org.value}`}><Quotas of={quotas.data as never} /></Section>}
      {environments.data && (
        <Section title="Packages" aside={may("build_environments") && <Act does={async () => { await call("build_environments"); await environments.again(); }}>Resolve anew</Act>}>
          {environments.data.items.length === 0 && <Empty>No file of the workspace needs any.</Empty>}
          <ul class="lines">{environments.data.items.map((one) => <li key={one.name}><span>{one.path || one.name}</span><Status of={one.status} /><span class="minor">{one.packages?.length ?? 0} packages, {bytes(one.bytes)}</span>{(one.problems ?? []).map((each) => <span key={each.message} class="wrong">{each.message}</span>)}</li>)}</ul>
        </Section>
      )}
      {replays.data && replays.data.items.length > 0 && (
        <Section title="Replays">
          <ul class="lines">{replays.data.items.map((one) => <li key={one.id}><span>{one.source ?? "every source"}{one.delivery_status ? `, ${one.delivery_status}` : ""}</span><Status of={one.status} /><span class="minor">{one.replayed} of {one.total}, {one.failed} failed</span><Time at={one.requested_at} />{one.status === "running" && may("cancel_replay") && <Act does={async () => { await call("cancel_replay", { path: { id: one.id } }); await replays.again(); }}>End it</Act>}</li>)}</ul>
        </Section>
      )}
      <p class="lead">Figures for Prometheus are at <code>/metrics</code>; <code>millrace top</code> and <code>millrace doctor</code> say more at a terminal. Logs of the services: <a href={to("/logs", { q: "type:log.* level:>=warning" })}>warnings of a day</a>.</p>
    </>
  );
}

/** How much of each quota is used. */
export function Quotas({ of }: { of: Record<string, { used: number; limit: number | null } | string> }): ComponentChildren {
  return (
    <ul class="lines">
      {Object.entries(of).map(([field, one]) => typeof one === "object" && (
        <li key={field}><span>{field.replace(/_/g, " ")}</span><span>{one.used.toLocaleString("en")} of {one.limit === null ? "any number" : one.limit.toLocaleString("en")}</span>{one.limit ? <meter min={0} max={one.limit} value={one.used} aria-label={field} /> : null}</li>
      ))}
    </ul>
  );
}
