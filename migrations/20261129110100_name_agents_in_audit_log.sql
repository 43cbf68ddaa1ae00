-- Name the agent of an audit entry in a column, so that what agents did can be listed by agent and time.
--
-- The column is what metadata.agent says, and is written by the trigger that stamps entries: an index on the expression itself serves
-- nobody under row-level security, since reading a key of jsonb is not leakproof. The digest covers metadata, and a check holds the
-- column to it.
--
-- Locks:   audit_log: access exclusive for the moment that adding a column and a check takes, then against writes while two indexes are
--          built over the entries that name an agent, about a second for each million entries.
-- Rollout: expand; entries that are there name no agent in the column and are listed by nothing.
-- Undo:    drop the indexes, the check and the column; create or replace app.stamp_audit_log as 20261129020000 has it.

set local role spine_owner;

alter table public.audit_log add column agent text;
comment on column public.audit_log.agent is
    'The agent that did it, as agent_limits.agent names it: metadata.agent. Who told of it is user_id or agent_id.';
-- Entries of before have an agent in metadata alone.
alter table public.audit_log add constraint audit_log_agent_check
    check (agent is null or agent is not distinct from metadata ->> 'agent') not valid;
create index audit_log_org_id_agent_idx on public.audit_log (org_id, agent, occurred_at desc, id desc) where agent is not null;
create index audit_log_org_id_acted_idx on public.audit_log (org_id, occurred_at desc, id desc) where agent is not null;

-- Nobody chooses when an entry was made, what its digest is, or which agent the column names. In replica mode, which only a superuser sets
-- or who was granted it, an entry that comes with its stamps is restored: it keeps them, and must be what its digest says.
create or replace function app.stamp_audit_log() returns trigger language plpgsql set search_path = '' as $$
begin
    if new.digest is not null and current_setting('session_replication_role') = 'replica' then
        if new.digest is distinct from app.audit_digest(new) then
            raise exception 'audit entry % is not as it was written', new.id using errcode = 'data_corrupted';
        end if;
        return new;
    end if;
    new.occurred_at := clock_timestamp();
    new.xact := pg_current_xact_id();
    new.agent := new.metadata ->> 'agent';
    new.digest := app.audit_digest(new);
    return new;
end
$$;

reset role;
