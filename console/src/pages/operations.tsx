// Health and quotas: whether all is served, what is behind, what is installed.
import { useEffect, useState } from "preact/hooks";

import { useAsked } from "../api/asked";
import { call, may, org } from "../api/client";
import { described } from "../api/description";
import { usePolled } from "../api/live";
import { useReadiness } from "../api/readiness";
import { to } from "../app/router";
import { bytes, duration } from "../ui/formats";
import { Act, Empty, Facts, Head, Loading, Refusal, Section, Status, Time } from "../ui/parts";
import { Quotas, ServiceLine, Unserved } from "../ui/services";

export default function Operations() {
  const ready = useReadiness(5000);
  const version = useVersion();
  const environments = useAsked("list_environments", may("list_environments") ? {} : null);
  const quotas = useAsked("get_quotas", may("get_quotas") ? { path: { org: org.value } } : null);
  const replays = useAsked("list_replays", may("list_replays") ? { query: { limit: 10 } } : null);
  const goesOn = replays.data?.items.some((one) => one.status === "running") || environments.data?.items.some((one) => one.status === "building");
  usePolled(() => { if (goesOn) [replays, environments].forEach((one) => void one.again()); }, 5000);
  const now = ready.now;
  const work = Object.entries(now?.backlog?.work ?? {}).filter(([, count]) => count > 0);
  return (
    <>
      <Head title="Health and quotas">{now && <Status of={now.status} />}</Head>
      {ready.problem && <Refusal problem={ready.problem} again={ready.again} />}
      {!now && !ready.problem && <Loading />}
      <Unserved of={now} />
      {now && (
        <div class="columns">
          <Section title="Services">
            <ul class="lines services">{Object.entries({ gateway: now, ...now.services }).map(([name, one]) => <ServiceLine key={name} name={name} of={one} />)}</ul>
          </Section>
          <Section title="Backlog">
            <Facts of={[["Messages that wait", (now.backlog?.messages ?? 0).toLocaleString("en")], ["The oldest waits", now.backlog?.age_s ? duration(now.backlog.age_s * 1000) : null], ["For", work.map(([what, count]) => `${what}: ${count.toLocaleString("en")}`).join(", ")], ["Refused since the start", now.backlog?.refused?.toLocaleString("en")], ["Problem", now.backlog?.problem]]} />
            <h3>Installation</h3>
            <Facts of={[
              ["Millrace", version],
              ["Sandbox", now.sandbox?.tier && `tier ${now.sandbox.tier}`],
              ["Last backup", now.backup?.age_s === undefined ? "not known here: the servers are your own" : <><Time at={new Date(Date.now() - now.backup.age_s * 1000).toISOString()} /> <small>(without any: when it was installed)</small></>],
            ]} />
          </Section>
        </div>
      )}
      {quotas.data && <Section title={`Quotas of ${org.value}`}><Quotas of={quotas.data as never} /></Section>}
      {environments.data && (
        <Section title="Packages" aside={may("build_environments") && <Act does={async () => { await call("build_environments"); await environments.again(); }}>Resolve anew</Act>}>
          {environments.data.items.length === 0 && <Empty>No file of the workspace needs any.</Empty>}
          <ul class="lines">{environments.data.items.map((one) => (
            <li key={`${one.name} ${one.id}`}>
              <details>
                <summary><span>{one.path || one.name}</span> <Status of={one.status} /> <span class="minor">{one.status === "building" ? `${one.step ?? ""} ${one.done ?? 0} of ${one.total ?? 0}` : `${one.packages?.length ?? 0} packages, ${bytes(one.bytes)}`}{one.serves ? ", in service" : ""}{one.updated_at && <>, <Time at={one.updated_at} /></>}</span></summary>
                <p class="packages">{(one.packages ?? []).map((each) => <code key={each.name}>{each.name} {each.version}</code>)}</p>
              </details>
              {(one.problems ?? []).map((each) => <span key={each.message} class="wrong">{each.message}</span>)}
            </li>
          ))}</ul>
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

/** The version of Millrace that answers. */
function useVersion(): string | null {
  const [version, setVersion] = useState<string | null>(null);
  useEffect(() => void described().then((document) => setVersion(document.info.version), () => undefined), []);
  return version;
}
