// One question of a workflow, and its answer.
import { useState } from "preact/hooks";

import { useAsked } from "../api/asked";
import { call, may } from "../api/client";
import { useChanges } from "../api/live";
import { to } from "../app/router";
import { Answer } from "../ui/answer";
import { Json } from "../ui/json";
import { Act, Dialog, Facts, Head, Id, Loading, Refusal, Section, Status, Taken, Time } from "../ui/parts";

export default function ApprovalPage({ id = "" }: { id?: string }) {
  const asked = useAsked("get_approval", { path: { id } });
  const [links, setLinks] = useState(false);
  useChanges(asked.data ? `run:"${asked.data.run}"` : `run:"${id}"`, () => void asked.again());
  const one = asked.data;
  if (asked.problem && !one) return <Refusal problem={asked.problem} again={asked.again} />;
  if (!one) return <Loading />;
  return (
    <>
      <Head title={one.prompt} of={<><a href={to("/approvals")}>Approvals</a> / <Id of={id} /></>}>
        <Status of={one.status} />
        {one.status === "open" && may("make_approval_link") && <button type="button" onClick={() => setLinks(true)}>Link for somebody without an account</button>}
      </Head>
      {links && <Link id={id} close={() => setLinks(false)} />}
      <div class={one.status === "open" ? "answering" : undefined}>
        {one.status === "open" && <Answer of={one} done={asked.again} />}
        <Section title="Details">
          <Facts of={[["Run", <Id of={one.run} href={to(`/runs/${one.run}`)} />], ["Workflow", <a href={to(`/workflows/${one.workflow}`)}>{one.workflow}</a>], ["Asked", one.to.join(", ")], ["Opened", <Time at={one.opened_at} />], ["Until", one.until && <Time at={one.until} />], ["Reminders", one.reminders || null], ["Answered by", one.answered_by], ["Answered", one.answered_at && <Time at={one.answered_at} />], ["By way of", one.via], ["From", one.remote], ["Comment", one.comment]]} />
          {one.data !== null && one.data !== undefined && <Json of={one.data} />}
        </Section>
      </div>
    </>
  );
}

function Link({ id, close }: { id: string; close: () => void }) {
  const [name, setName] = useState("");
  const [url, setUrl] = useState<string | null>(null);
  return (
    <Dialog title="A link, for one answer" close={close}>
      {url === null ? (
        <>
          <label>For whom: what the record will say <input value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
          <div class="actions"><Act kind="main" disabled={!name} does={async () => setUrl((await call("make_approval_link", { path: { id }, body: { name } })).url)}>Make the link</Act></div>
        </>
      ) : (
        <><p>Who has it may answer, once.</p><Taken text={url} /></>
      )}
    </Dialog>
  );
}
