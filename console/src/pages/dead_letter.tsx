// One dead letter: what it was, why nobody could deal with it, and what to do.
import { useAsked } from "../api/asked";
import { call, may } from "../api/client";
import { to } from "../app/router";
import { Json } from "../ui/json";
import { Act, Facts, Head, Id, Loading, Refusal, Section, Status, Time } from "../ui/parts";

export default function DeadLetterPage({ id = "" }: { id?: string }) {
  const asked = useAsked("get_dead_letter", { path: { id } });
  const one = asked.data;
  if (asked.problem && !one) return <Refusal problem={asked.problem} again={asked.again} />;
  if (!one) return <Loading />;
  return (
    <>
      <Head title={one.reason.slice(0, 1).toUpperCase() + one.reason.slice(1)} of={<><a href={to("/dead-letters")}>Dead letters</a> / <Id of={id} /></>}>
        <Status of={one.status} />
        {one.status === "open" && may("replay_dead_letter") && <Act kind="main" does={async () => { await call("replay_dead_letter", { path: { id } }); await asked.again(); }}>Try again</Act>}
        {one.status === "open" && may("discard_dead_letter") && <Act kind="bad" confirm="It is not tried again. What it was stays in the archive." does={async () => { await call("discard_dead_letter", { path: { id } }); await asked.again(); }}>Discard</Act>}
      </Head>
      <Section title="Error"><pre>{one.error}</pre></Section>
      <Section title="Details"><Facts of={[["Service", one.service], ["Consumer", one.consumer], ["Type", one.type], ["Tries", one.tries], ["Came", <Time at={one.received_at} />], ["Place", `${one.stream} ${one.sequence}`], ["Delivery", one.delivery && <Id of={one.delivery} href={to(`/deliveries/${one.delivery}`)} />], ["Changed by", one.changed_by]]} /></Section>
      <Section title="Message">{one.document !== undefined && one.document !== null ? <Json of={one.document} /> : <pre>{one.document_base64}</pre>}</Section>
    </>
  );
}
