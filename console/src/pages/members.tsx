// Members of an organization: their roles, and who is invited.
import { useState } from "preact/hooks";

import { asProblem, useAsked } from "../api/asked";
import { type Problem, type Role, call, may, org } from "../api/client";
import { Act, Dialog, Empty, Head, Refusal, Section, Taken, Time } from "../ui/parts";

const ROLES: Role[] = ["viewer", "operator", "developer", "admin"];

export default function Members() {
  const path = { org: org.value };
  const members = useAsked("list_members", { path });
  const invitations = useAsked("list_invitations", { path });
  const [invites, setInvites] = useState(false);
  const [refused, setRefused] = useState<Problem | null>(null);
  const change = async (name: string, role: Role) => {
    setRefused(null);
    await call("patch_member", { path: { ...path, name }, body: { role } }).catch((error) => setRefused(asProblem(error)));
    await members.again();
  };
  return (
    <>
      <Head title={`Members of ${org.value}`}>{may("create_invitation") && <button type="button" class="main" onClick={() => setInvites(true)}>Invite somebody</button>}</Head>
      <Refusal problem={members.problem} again={members.again} />
      <Refusal problem={refused} />
      <Section title="Members">
        {members.data?.items.length === 0 && <Empty>Nobody has a role in this organization alone. People with a role in all of them, as in <code>global</code>, are not listed here.</Empty>}
        <ul class="lines">
          {(members.data?.items ?? []).map((one) => (
            <li key={one.name}>
              <span>{one.display_name || one.name} <small>{one.name}</small></span>
              {may("patch_member") ? (
                <select aria-label={`Role of ${one.name}`} value={one.role} onChange={(event) => void change(one.name, event.currentTarget.value as Role)}>
                  {ROLES.map((role) => <option key={role}>{role}</option>)}
                </select>
              ) : <span>{one.role}</span>}
              {may("delete_member") && <Act small confirm={`${one.name} has no role in ${org.value} any more, and sessions of it end.`} does={async () => { await call("delete_member", { path: { ...path, name: one.name } }); await members.again(); }}>Remove</Act>}
            </li>
          ))}
        </ul>
      </Section>
      {(invitations.data?.items.length ?? 0) > 0 && (
        <Section title="Invited">
          <ul class="lines">
            {invitations.data?.items.map((one) => (
              <li key={one.id}><span>{one.display_name || one.name || one.email || "whoever has the link"}</span><span>{one.role}</span><span class="minor">by {one.invited_by}, ends <Time at={one.ends_at} /></span>
                {may("delete_invitation") && <Act small does={async () => { await call("delete_invitation", { path: { ...path, id: one.id } }); await invitations.again(); }}>Withdraw</Act>}
              </li>
            ))}
          </ul>
        </Section>
      )}
      {invites && <Invite close={() => setInvites(false)} done={invitations.again} />}
    </>
  );
}

function Invite({ close, done }: { close: () => void; done: () => Promise<void> }) {
  const [role, setRole] = useState<Role>("operator");
  const [email, setEmail] = useState("");
  const [url, setUrl] = useState<string | null>(null);
  return (
    <Dialog title="Invite somebody" close={close}>
      {url === null ? (
        <>
          <label>Role <select value={role} onChange={(event) => setRole(event.currentTarget.value as Role)}>{ROLES.map((one) => <option key={one}>{one}</option>)}</select></label>
          <label>Address, for your eyes: nothing is sent <input type="email" value={email} onInput={(event) => setEmail(event.currentTarget.value)} /></label>
          <div class="actions"><Act kind="main" does={async () => { const made = await call("create_invitation", { path: { org: org.value }, body: { role, email } as never }); setUrl(made.url ?? ""); await done(); }}>Make the link</Act></div>
        </>
      ) : (
        <><p>Who has this link becomes {role}, once, within a week.</p><Taken text={url} /></>
      )}
    </Dialog>
  );
}
