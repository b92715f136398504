// One file of the workspace: its code, with what keeps it from serving at its lines.
import { useAsked } from "../api/asked";
import { may } from "../api/client";
import { useChanges } from "../api/live";
import { here, to } from "../app/router";
import { Empty, Facts, Head, Loading, Refusal, Section, Time } from "../ui/parts";
import { Source } from "../ui/source";

export default function FilePage({ path = "" }: { path?: string }) {
  const asked = useAsked("list_files", { query: { prefix: path, limit: 100 } });
  const problems = useAsked("list_problems", may("list_problems") ? {} : null);
  useChanges("type:file.* OR type:workflow.*", () => void Promise.all([asked.again(), problems.again()]));
  const one = asked.data?.items.find((each) => each.path === path);
  if (asked.problem) return <Refusal problem={asked.problem} again={asked.again} />;
  if (!asked.data) return <Loading />;
  return (
    <>
      <Head title={path} of={<a href={to("/workflows")}>Workflows</a>} />
      {!one && <Empty>There is no such file any more.</Empty>}
      {one && (
        <>
          <Source path={path} line={Number(here.value.searchParams.get("line")) || undefined} changes={one.sha256} notes={(problems.data?.items ?? []).filter((each) => each.path === path)} />
          <Section title="Details"><Facts of={[["Workflows", (one.workflows ?? []).length ? one.workflows.map((name) => <><a key={name} href={to(`/workflows/${name}`)}>{name}</a> </>) : null], ["Changed", <Time at={one.updated_at} />]]} /></Section>
        </>
      )}
    </>
  );
}
