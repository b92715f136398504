// How it is right now: what failed, what waits, what comes next.
import { useAsked } from "../api/asked";
import { may } from "../api/client";
import { useChanges } from "../api/live";
import { to } from "../app/router";
import { Bars } from "../ui/bars";
import { duration } from "../ui/formats";
import { Empty, Head, Loading, Refusal, Section, Status, Time } from "../ui/parts";

const DAY = "now-24h";

export default function Overview() {
  const ready = useAsked("ready", {});
  const failed = useAsked("list_runs", { query: { status: "failed", limit: 8 } });
  const newest = useAsked("list_runs", { query: { limit: 8 } });
  const came = useAsked("count_logs_by_time", { query: { q: "type:webhook.received", from: DAY, bars: 48 } });
  const ended = useAsked("count_logs_by_time", { query: { q: "type:run.succeeded", from: DAY, bars: 48 } });
  const wrong = useAsked("count_logs_by_time", { query: { q: "type:run.failed OR type:run.timed_out OR type:run.crashed", from: DAY, bars: 48 } });
  const schedules = useAsked("list_schedules", may("list_schedules") ? { query: { limit: 100 } } : null);
  const approvals = useAsked("list_approvals", may("list_approvals") ? { query: { status: "open", limit: 5 } as never } : null);
  const dead = useAsked("list_dead_letters", may("list_dead_letters") ? { query: { status: "open", limit: 5 } } : null);
  useChanges("type:run.* OR type:webhook.*", () => [failed, newest, came, ended, wrong, approvals, dead].forEach((one) => void one.again()), 3000);
  const next = (schedules.data?.items ?? []).filter((one) => one.enabled && one.next_at).sort((a, b) => (a.next_at ?? "").localeCompare(b.next_at ?? "")).slice(0, 6);
  return (
    <>
      <Head title="Overview" />
      <div class="figures">
        <Figure name="Webhooks, 24 h" asked={came} href={to("/deliveries")} />
        <Figure name="Runs that succeeded, 24 h" asked={ended} href={to("/runs", { status: "succeeded" })} tone="good" />
        <Figure name="Runs that failed, 24 h" asked={wrong} href={to("/runs", { status: "failed" })} tone="bad" />
      </div>
      <div class="columns">
        <Section title="Newest runs" aside={<a href={to("/runs")}>All runs</a>}>
          <RunLines asked={newest} empty="Nothing has run yet." />
        </Section>
        <Section title="Failed runs" aside={<a href={to("/runs", { status: "failed" })}>All of them</a>}>
          <RunLines asked={failed} empty="None has failed." />
        </Section>
        <Section title="Waiting for somebody" aside={<a href={to("/approvals")}>Approvals</a>}>
          {(approvals.data?.items ?? []).length === 0 && (dead.data?.items ?? []).length === 0 && <Empty>Nobody has to do anything.</Empty>}
          <ul class="lines">
            {(approvals.data?.items ?? []).map((one) => <li key={one.id}><a href={to(`/approvals/${one.id}`)}>{one.prompt}</a><Time at={one.opened_at} /></li>)}
            {(dead.data?.items ?? []).map((one) => <li key={one.id}><a href={to(`/dead-letters/${one.id}`)}>Dead letter: {one.reason}</a><Time at={one.received_at} /></li>)}
          </ul>
        </Section>
        <Section title="Next schedules">
          {next.length === 0 && <Empty>No schedule is ahead.</Empty>}
          <ul class="lines">
            {next.map((one) => <li key={one.id}><a href={to(`/schedules/${one.name}`)}>{one.name}</a><Time at={one.next_at} /></li>)}
          </ul>
        </Section>
        <Section title="Services">
          <Services of={ready.data as never} problem={ready.problem} />
        </Section>
      </div>
    </>
  );
}

function Figure({ name, asked, href, tone }: { name: string; asked: { data?: { count: number; items: { time: string; count: number }[] } | undefined; problem: unknown }; href: string; tone?: string }) {
  return (
    <a class={`figure ${tone ?? ""}`} href={href}>
      <span class="name">{name}</span>
      <strong>{asked.data ? asked.data.count.toLocaleString("en") : asked.problem ? "?" : "…"}</strong>
      <Bars of={asked.data?.items ?? []} />
    </a>
  );
}

function RunLines({ asked, empty }: { asked: ReturnType<typeof useAsked<"list_runs">>; empty: string }) {
  if (asked.problem) return <Refusal problem={asked.problem} again={asked.again} />;
  if (!asked.data) return <Loading />;
  if (asked.data.items.length === 0) return <Empty>{empty}</Empty>;
  return (
    <ul class="lines">
      {asked.data.items.map((run) => (
        <li key={run.id}>
          <a href={to(`/runs/${run.id}`)}>{run.workflow}</a>
          <Status of={run.status} />
          <span class="minor">{duration(run.duration_ms)}</span>
          <Time at={run.requested_at} />
        </li>
      ))}
    </ul>
  );
}

function Services({ of, problem }: { of: { status?: string; services?: Record<string, { status?: string; ready?: boolean }> } | undefined; problem: unknown }) {
  if (problem) return <Refusal problem={problem as never} />;
  if (!of) return <Loading />;
  return (
    <ul class="lines">
      {Object.entries(of.services ?? {}).map(([name, one]) => <li key={name}><span>{name}</span><Status of={one.status ?? (one.ready ? "ready" : "down")} /></li>)}
    </ul>
  );
}
