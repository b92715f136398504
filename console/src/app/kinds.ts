// Kinds of resources, and what a list of each shows. A kind that is not here has the name and the time of its change.
export interface Kind {
  title: string;
  one: string;
  /** Fields of the list, in its order. */
  shows: string[];
  says: string;
  group: string;
  /** Whether it is written by the command alone, so that no form makes one. */
  recorded?: boolean;
}

export const KINDS: Record<string, Kind> = {
  sources: { title: "Sources", one: "source", shows: ["adapter", "enabled", "integration"], group: "What is built", says: "A source takes webhooks of one sender, at an address of its own." },
  subscriptions: { title: "Subscriptions", one: "subscription", shows: ["source", "event", "workflow", "enabled"], group: "What is built", says: "A subscription starts a workflow for events of a source." },
  schedules: { title: "Schedules", one: "schedule", shows: ["cron", "every", "workflow", "next_at", "enabled"], group: "What is built", says: "A schedule starts a workflow, or emits an event, at its times." },
  forms: { title: "Forms", one: "form", shows: ["workflow", "access", "enabled"], group: "What is built", says: "A form is a page whose answers start a workflow." },
  packs: { title: "Packs", one: "pack", shows: ["release", "status", "description"], group: "What is built", recorded: true, says: "A pack is code and resources that are applied as one, and upgraded and removed as one: `millrace packs apply`." },
  integrations: { title: "Integrations", one: "integration", shows: ["description", "provider"], group: "What it uses", says: "An integration is a system outside, with its settings for each organization." },
  connections: { title: "Connections", one: "connection", shows: ["grant", "provider", "status"], group: "What it uses", says: "A connection is a credential with which workflows call an API." },
  providers: { title: "Providers", one: "provider", shows: ["known", "client_id"], group: "What it uses", says: "A provider is an OAuth server, with your client there." },
  secrets: { title: "Secrets", one: "secret", shows: ["readers"], group: "What it uses", says: "A secret is a value that workflows read, and nobody sees again." },
  variables: { title: "Variables", one: "variable", shows: ["value"], group: "What it uses", says: "A variable is a value that workflows read." },
  repositories: { title: "Repositories", one: "repository", shows: ["url", "branch"], group: "What it uses", says: "A repository is the git remote of the workspace." },
  searches: { title: "Saved searches", one: "saved search", shows: ["q", "alert_above", "above"], group: "What happens", says: "A saved search keeps a query under a name, and may raise an alert." },
  keys: { title: "Keys", one: "key", shows: ["role", "prefix", "scopes", "last_used_at", "expires_at"], group: "Who may", says: "A key lets a program call the API." },
  users: { title: "Users", one: "user", shows: ["display_name", "email", "roles"], group: "Who may", says: "A user is a person who signs in." },
  orgs: { title: "Organizations", one: "organization", shows: ["display_name"], group: "Who may", says: "An organization has sources, workflows, keys and data of its own, which no other sees." },
  "identity-providers": { title: "Identity providers", one: "identity provider", shows: ["display_name", "issuer", "enabled"], group: "Who may", says: "People sign in with it, by OpenID Connect." },
  levels: { title: "Log levels", one: "log level", shows: ["level", "until", "active"], group: "Operations", says: "What a service logs, while it runs." },
  retentions: { title: "Retentions", one: "retention", shows: ["stream", "days"], group: "Operations", says: "For how long rows of the archive are kept." },
};
