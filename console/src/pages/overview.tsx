// How it is right now: what failed, what waits, what comes next.
import { type Asked, useAsked } from "../api/asked";
import { may } from "../api/client";
import { hasCome, useChanges, usePolled } from "../api/live";
import { useReadiness } from "../api/readiness";
import { to } from "../app/router";
import { Bars } from "../ui/bars";
import { duration } from "../ui/formats";
import { Empty, Facts, Head, Loading, Refusal, Section, Status, Time } from "../ui/parts";
import { Unserved } from "../ui/services";

const DAY = "now-24h";
const FAILURES = ["run.failed", "run.timed_out", "run.crashed"];
const FAILED = FAILURES.map((one) => `type:${one}`).join(" OR ");
const FEW = 8;
// Milliseconds. Lists are asked for again as something comes that they show; what is counted over a day, and what few look at, seldom.
const LISTS = 3000;
const COUNTS = 30_000;
const SELDOM = 60_000;

export default function Overview() {
  const ready = useReadiness(COUNTS);
  const failed = useAsked("list_runs", { query: { status: "failed", limit: FEW } });
  const late = useAsked("list_runs", { query: { status: "timed_out", limit: FEW } });
  const crashed = useAsked("list_runs", { query: { status: "crashed", limit: FEW } });
  const newest = useAsked("list_runs", { query: { limit: FEW } });
  const came = useAsked("count_logs_by_time", { query: { q: "type:webhook.received", from: DAY, bars: 48 } });
  const ended = useAsked("count_logs_by_time", { query: { q: "type:run.succeeded", from: DAY, bars: 48 } });
  const wrong = useAsked("count_logs_by_time", { query: { q: FAILED, from: DAY, bars: 48 } });
  const firings = useAsked("list_firings", { query: { hours: 168 } });
  const approvals = useAsked("list_approvals", { query: { status: "open", limit: 5 } });
  const dead = useAsked("list_dead_letters", { query: { status: "open", limit: 5 } });
  useChanges("type:run.* OR type:webhook.received OR stream:DEAD", (types) => {
    if (hasCome(types, "run.")) void newest.again();
    [failed, late, crashed].forEach((one, n) => { if (hasCome(types, FAILURES[n] ?? "")) void one.again(); });
    if (hasCome(types, ...FAILURES, "run.waiting", "run.resumed", "run.cancelled")) void approvals.again();
    if (hasCome(types, "DEAD")) void dead.again();
  }, LISTS);
  usePolled(() => [came, ended, wrong].forEach((one) => void one.again()), COUNTS);
  usePolled(() => [firings, dead].forEach((one) => void one.again()), SELDOM);
  const next = (firings.data?.items ?? []).flatMap((one) => one.times.slice(0, 1).map((at) => ({ name: one.schedule, at }))).sort((a, b) => a.at.localeCompare(b.at)).slice(0, 6);
  const questions = [...(approvals.data?.items ?? []).map((one) => ({ id: one.id, href: to(`/approvals/${one.id}`), says: one.prompt, at: one.opened_at })),
    ...(dead.data?.items ?? []).map((one) => ({ id: one.id, href: to(`/dead-letters/${one.id}`), says: `Dead letter: ${one.error || one.reason}`, at: one.received_at }))];
  return (
    <>
      <Head title="Overview">{ready.now && <Status of={ready.now.status} />}</Head>
      <Unserved of={ready.now} />
      <div class="figures">
        <Figure name="Webhooks, 24 h" asked={came} href={to("/deliveries")} />
        <Figure name="Runs that succeeded, 24 h" asked={ended} href={to("/runs", { status: "succeeded" })} tone="good" />
        <Figure name="Runs that failed, 24 h" asked={wrong} href={to("/logs", { q: FAILED, from: DAY })} tone="bad" />
      </div>
      <div class="columns">
        <Section title="Newest runs" aside={<a href={to("/runs")}>All runs</a>}>
          <RunLines asked={newest} empty="Nothing has run yet." />
        </Section>
        <Section title="Failed runs" aside={<span class="actions">{["failed", "timed_out", "crashed"].map((one) => <a key={one} href={to("/runs", { status: one })}>{one.replace("_", " ")}</a>)}</span>}>
          <RunLines asked={newestOf([failed, late, crashed])} empty="None has failed." />
        </Section>
        <Section title="Waiting for somebody" aside={<a href={to("/approvals")}>Approvals</a>}>
          <Refusal problem={approvals.problem ?? dead.problem} />
          {approvals.data && dead.data && questions.length === 0 && <Empty>Nobody has to do anything.</Empty>}
          <ul class="lines">{questions.map((one) => <li key={one.id}><a href={one.href}>{one.says}</a><Time at={one.at} /></li>)}</ul>
        </Section>
        <Section title="Next schedules" aside={<a href={to("/schedules")}>The calendar</a>}>
          <Refusal problem={firings.problem} again={firings.again} />
          {firings.data && next.length === 0 && <Empty>No schedule is ahead.</Empty>}
          <ul class="lines">
            {next.map((one) => <li key={one.name}><a href={to(`/schedules/${one.name}`)}>{one.name}</a><Time at={one.at} /></li>)}
          </ul>
        </Section>
        <Section title="Services" aside={may("list_environments") && <a href={to("/operations")}>Health and quotas</a>}>
          {ready.problem ? <Refusal problem={ready.problem} again={ready.again} /> : !ready.now ? <Loading /> : (
            <>
              <ul class="lines">
                {Object.entries(ready.now.services ?? {}).map(([name, one]) => <li key={name}><span>{name}</span><Status of={one.ready ? "ready" : "unready"} /></li>)}
              </ul>
              <Facts of={[["Backlog", `${(ready.now.backlog?.messages ?? 0).toLocaleString("en")} webhooks and events wait`], ["The oldest waits", ready.now.backlog?.age_s ? duration(ready.now.backlog.age_s * 1000) : null]]} />
            </>
          )}
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

type Runs = { items: { id: string; workflow: string; status: string; duration_ms?: number | null; requested_at: string }[] };

/** The newest of several lists, once all are there. */
function newestOf(lists: Asked<Runs>[]): Asked<Runs> {
  const all = lists.flatMap((one) => one.data?.items ?? []).sort((a, b) => b.requested_at.localeCompare(a.requested_at));
  return {
    data: lists.every((one) => one.data) ? { items: all.slice(0, FEW) } : undefined,
    problem: lists.find((one) => one.problem)?.problem ?? null,
    loading: lists.some((one) => one.loading),
    again: async () => { await Promise.all(lists.map((one) => one.again())); },
  };
}

function RunLines({ asked, empty }: { asked: Asked<Runs>; empty: string }) {
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
