-- Revoke what the system could set although people decide it: approvals, and states that people own.
--
-- Locks:   data_ownership exclusively, for two inserts; accounting_writes exclusively, for the moment that dropping a policy takes.
-- Rollout: contract. Nothing that runs sets these columns.
-- Undo:    grant the columns again, make the policy again, delete the rows of data_ownership.

set local role spine_owner;

-- A write to a client's books begins as a proposal of nobody's. Who proposes or approves it, and what follows from that, is moved
-- by a person's own transaction; the system has no way to it.
revoke insert, update on public.accounting_writes from spine_service;
grant insert (id, org_id, client_id, kind, payload, payload_hash) on public.accounting_writes to spine_service;
drop policy accounting_writes_service_update on public.accounting_writes;

-- Whether a lead was won, when it was last spoken to and when it was closed is for people to say.
revoke insert, update on public.leads from spine_service;
grant insert (id, org_id, client_name, email, phone, source, budget_minor, currency, territory, wanted_skills) on public.leads to spine_service;
grant update (assigned_to, assigned_at) on public.leads to spine_service;

-- A message arrives as new. Whether it was read or answered is its reader's to say.
revoke insert, update on public.social_messages from spine_service;
grant insert (id, org_id, account_id, message_type, content, sender_id, received_at, thread_id, platform_id, deleted_at)
    on public.social_messages to spine_service;
grant update (content, thread_id, deleted_at) on public.social_messages to spine_service;

-- Whose job it is, what it is about, and that somebody wants it cancelled does not change by working on it.
revoke update on public.jobs from spine_service;
grant update (status, result, actual_tokens, attempts, run_after, lease_until, lease_token, last_error, wait_reason, finished_at)
    on public.jobs to spine_service;

-- Who asks for a render does not say how it went.
revoke insert on public.render_requests from spine_caller, spine_agent;
grant insert (id, org_id, user_id, agent_id, project_id, parent_id, job_id, input_file_path, model, variants)
    on public.render_requests to spine_caller, spine_agent;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner)
select 'accounting_writes', c.name, 'human'
  from unnest(array['status', 'proposed_by', 'approved_by', 'approved_at', 'approval_expires_at']) c (name);
insert into public.data_ownership (table_name, column_name, owner)
select 'render_requests', c.name, 'system' from unnest(array['status', 'error', 'completed_at']) c (name);
alter table public.data_ownership force row level security;

reset role;
